# Evaluate nix/module.nix against stand-ins for the NixOS options it sets: settings in, what it configures out.
{ settings ? { } }:
let
  lib = import ./stub/lib.nix;
  anything = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
  nixos = {
    options = {
      assertions = lib.mkOption { type = lib.types.listOf lib.types.anything; default = [ ]; };
      environment.etc = anything;
      networking.hostName = lib.mkOption { type = lib.types.str; default = "nixos"; };
      networking.firewall.allowedTCPPorts = lib.mkOption { type = lib.types.listOf lib.types.port; default = [ ]; };
      nix.package = lib.mkOption { type = lib.types.str; default = "/nix/store/nix"; };
      systemd.services = anything;
      users.users = anything;
      users.groups = anything;
    };
  };
  inherit (lib.evalModules {
    specialArgs.pkgs = import ./stub/pkgs.nix "x86_64-linux" // { nixfleet = "/nix/store/nixfleet"; nixfleet-agent = "/nix/store/nixfleet-agent"; };
    modules = [ ../../nix/module.nix nixos settings ];
  }) config;
in
{
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  agentToml = (config.environment.etc."nixfleet/agent.toml" or { source.value = null; }).source.value;
  ports = config.networking.firewall.allowedTCPPorts;
  inherit (config.systemd) services;
}
