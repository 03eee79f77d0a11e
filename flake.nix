{
  description = "nixfleet: fleet management for NixOS devices that dial out";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      packages = pkgs: {
        nixfleet = pkgs.callPackage ./nix/package.nix { };
        nixfleet-agent = pkgs.callPackage ./nix/package.nix { agentOnly = true; };
      };
    in
    {
      packages = each (pkgs: packages pkgs // { default = (packages pkgs).nixfleet; });

      apps = each (pkgs: rec {
        nixfleet = { type = "app"; program = "${(packages pkgs).nixfleet}/bin/nixfleet"; };
        default = nixfleet;
      });

      overlays.default = final: _: packages final;

      nixosModules.default = { pkgs, lib, ... }: {
        imports = [ ./nix/module.nix ];
        services.nixfleet.agent.package = lib.mkDefault (packages pkgs).nixfleet-agent;
        services.nixfleet.coordinator.package = lib.mkDefault (packages pkgs).nixfleet;
      };

      # { pkgs, nixosConfigurations } -> the release file for `nixfleet deploy -f`.
      lib.release = import ./nix/release.nix;
    };
}
