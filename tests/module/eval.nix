# Evaluate the NixOS module against stand-ins for the NixOS options it sets: settings in, what it configures out.
{ settings ? { }, module ? ../../nix/module.nix }:
let
  lib = import ./stub/lib.nix;
  anything = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
  option = type: default: lib.mkOption { inherit type default; };
  each = options: lib.mkOption { type = lib.types.attrsOf (lib.types.submodule { inherit options; }); default = { }; };
  words = option (lib.types.listOf lib.types.str) [ ];
  nixos = {
    options = {
      assertions = lib.mkOption { type = lib.types.listOf lib.types.anything; default = [ ]; };
      environment.etc = each { source = lib.mkOption { type = lib.types.package; }; };
      environment.systemPackages = lib.mkOption { type = lib.types.listOf lib.types.package; default = [ ]; };
      networking.hostName = lib.mkOption { type = lib.types.str; default = "nixos"; };
      networking.proxy.envVars = anything;
      networking.firewall.allowedTCPPorts = lib.mkOption { type = lib.types.listOf lib.types.port; default = [ ]; };
      nix.package = lib.mkOption { type = lib.types.str; default = "/nix/store/nix"; };
      # As nixos/lib/systemd-unit-options.nix names them.
      systemd.services = each {
        description = lib.mkOption { type = lib.types.str; };
        wantedBy = words;
        wants = words;
        after = words;
        path = option (lib.types.listOf lib.types.package) [ ];
        environment = option (lib.types.attrsOf lib.types.str) { };
        restartIfChanged = option lib.types.bool true;
        stopIfChanged = option lib.types.bool true;
        conflicts = words;
        script = option lib.types.str "";
        postStop = option lib.types.str "";
        unitConfig = anything;
        serviceConfig = anything;
      };
      systemd.package = lib.mkOption { type = lib.types.str; default = "/nix/store/systemd"; };
      systemd.timers = each { description = lib.mkOption { type = lib.types.str; }; wantedBy = words; timerConfig = anything; };
      systemd.tmpfiles.rules = lib.mkOption { type = lib.types.listOf lib.types.str; default = [ ]; };
      users.users = each { isSystemUser = option lib.types.bool false; group = lib.mkOption { type = lib.types.str; }; };
      users.groups = each { };
    };
  };
  inherit (lib.evalModules {
    specialArgs.pkgs = import ./stub/pkgs.nix "x86_64-linux" // { nixfleet = "/nix/store/nixfleet"; nixfleet-agent = "/nix/store/nixfleet-agent"; };
    # As nixos/lib/utils.nix does it (systemd.service(5), Command lines).
    specialArgs.utils.escapeSystemdExecArgs = args:
      builtins.concatStringsSep " " (map (arg: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON arg)) args);
    modules = [ module nixos settings ];
  }) config;
in
{
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  agentToml = (config.environment.etc."nixfleet/agent.toml" or { source.value = null; }).source.value;
  ports = config.networking.firewall.allowedTCPPorts;
  inherit (config.systemd) services timers;
  inherit (config.systemd.tmpfiles) rules;
  packages = config.environment.systemPackages;
}
