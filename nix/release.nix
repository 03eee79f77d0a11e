# Turn nixosConfigurations into the release file that `nixfleet deploy -f` reads: {"agents": {name: system path}}.
{ pkgs, nixosConfigurations }:
pkgs.writeText "deploy.json" (builtins.toJSON {
  agents = builtins.mapAttrs (_: system: "${system.config.system.build.toplevel}") nixosConfigurations;
})
