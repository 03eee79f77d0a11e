{
  description = "nixfleet: fleet management for NixOS devices that dial out";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      linux = [ "x86_64-linux" "aarch64-linux" ];
      darwin = [ "x86_64-darwin" "aarch64-darwin" ];
      each = systems: make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      whole = pkgs: rec {
        nixfleet = pkgs.callPackage ./nix/package.nix { };
        default = nixfleet;
      };
      agent = pkgs: { nixfleet-agent = pkgs.callPackage ./nix/package.nix { agentOnly = true; }; };
    in
    {
      # Console and command line run on macOS too, the agent on NixOS alone.
      packages = each linux (pkgs: whole pkgs // agent pkgs) // each darwin whole;

      apps = each (linux ++ darwin) (pkgs: rec {
        nixfleet = { type = "app"; program = "${(whole pkgs).nixfleet}/bin/nixfleet"; };
        default = nixfleet;
      });

      overlays.default = final: _: { inherit (whole final) nixfleet; inherit (agent final) nixfleet-agent; };

      nixosModules.default = { pkgs, lib, ... }: {
        imports = [ ./nix/module.nix ];
        services.nixfleet.agent.package = lib.mkDefault (agent pkgs).nixfleet-agent;
        services.nixfleet.coordinator.package = lib.mkDefault (whole pkgs).nixfleet;
      };

      # { pkgs, nixosConfigurations } -> the release file for `nixfleet deploy -f`.
      lib.release = import ./nix/release.nix;
    };
}
