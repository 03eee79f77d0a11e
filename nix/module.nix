# The NixOS module: services.nixfleet.agent and services.nixfleet.coordinator.
# It uses plain lib.mkOption, mkIf and types alone, so that it evaluates with any nixpkgs of the last years.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkEnableOption mkIf mkMerge mkOption types;
  cfg = config.services.nixfleet;
  toml = pkgs.formats.toml { };

  # What is null was not said: the agent's own default holds.
  said = value:
    if builtins.isList value then map said value
    else if builtins.isAttrs value then
      builtins.mapAttrs (_: said) (removeAttrs value (builtins.filter (key: value.${key} == null) (builtins.attrNames value)))
    else value;

  seconds = default: description: mkOption {
    type = types.nullOr types.ints.unsigned;
    inherit default description;
  };

  check = options: types.submodule {
    options = options // {
      timeout_s = seconds null "Seconds one try may take.";
      retries = mkOption {
        type = types.nullOr types.ints.unsigned;
        default = null;
        description = "Tries after the first one before the check counts as failed.";
      };
      start_delay_s = seconds null "Seconds to wait after the switch before the first try.";
    };
  };

  text = description: mkOption { type = types.str; inherit description; };

  agentFile = toml.generate "agent.toml" (said {
    inherit (cfg.agent) name urls fleet checkpoint tags caches;
    token_file = cfg.agent.tokenFile;
    key_file = cfg.agent.keyFile;
    state_dir = cfg.agent.stateDir;
    checks = cfg.agent.checks;
    orphan_s = cfg.agent.orphanSeconds;
    poll_s = cfg.agent.pollSeconds;
    report_lines = cfg.agent.reportLines;
    fetch = cfg.agent.fetch;
    volatile_state = cfg.agent.volatileState;
    # What the agent of this system replays: an older one would not follow the fleet's log any more.
    protocol = 1;
  });
in
{
  options.services.nixfleet.agent = {
    enable = mkEnableOption "the nixfleet agent, which installs the updates that its fleet's admins have signed";
    package = mkOption {
      type = types.package;
      default = pkgs.nixfleet-agent;
      defaultText = "pkgs.nixfleet-agent";
      description = "The package that has bin/nixfleet.";
    };
    name = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = "config.networking.hostName";
      description = "The name under which this device joins its fleet.";
    };
    tokenFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/etc/nixfleet/token";
      description = "File with a join token (`nixfleet enroll token`). It is a secret: never in the Nix store.";
    };
    urls = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "https://fleet.example.org" ];
      description = "Addresses of the coordinator, tried after those that the fleet's root names.";
    };
    fleet = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The fleet's id. Without a join token it is what pins the fleet: a device never trusts on first use.";
    };
    checkpoint = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "12:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
      description = "A state of the log, SIZE:ROOT, that the fleet's log must extend.";
    };
    tags = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { site = "berlin"; };
      description = "Tags to ask for when joining, where the token leaves a choice.";
    };
    keyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The device's key; by default its SSH host key, or a key of its own when it joins by token.";
    };
    stateDir = mkOption {
      type = types.str;
      default = "/var/lib/nixfleet";
      description = "Where the agent keeps its journal and its copy of the log. It must survive a reboot.";
    };
    caches = mkOption {
      type = types.listOf (types.submodule {
        options = {
          url = text "Address of a binary cache.";
          key = text "Its public key, name:base64.";
        };
      });
      default = [ ];
      description = "More binary caches to fetch from; what is installed is decided by signed digests all the same.";
    };
    checks = mkOption {
      type = types.submodule {
        options = {
          units = mkOption {
            type = types.listOf (check { unit = text "A systemd unit that must be active."; });
            default = [ ];
            description = "Units that must be active after an update.";
          };
          http = mkOption {
            type = types.listOf (check {
              url = text "Address that must answer.";
              status = mkOption {
                type = types.nullOr types.ints.positive;
                default = null;
                description = "The status it must answer with.";
              };
            });
            default = [ ];
            description = "Addresses that must answer after an update.";
          };
          tcp = mkOption {
            type = types.listOf (check {
              host = text "Host to connect to.";
              port = mkOption { type = types.port; description = "Port to connect to."; };
            });
            default = [ ];
            description = "Ports that must accept a connection after an update.";
          };
          command = mkOption {
            type = types.listOf (check {
              argv = mkOption { type = types.listOf types.str; description = "The command and its arguments."; };
            });
            default = [ ];
            description = "Commands that must exit with 0 after an update.";
          };
          settle_s = seconds null "Seconds after the switch until newly failed units are looked for.";
        };
      };
      default = { };
      description = "Checks an update must pass, beside the one that is always on: no newly failed unit.";
    };
    orphanSeconds = seconds null "Seconds without the coordinator, while caches answer, before an unconfirmed update goes back.";
    pollSeconds = seconds null "Seconds between polls where a proxy breaks event streams.";
    reportLines = mkOption {
      type = types.nullOr types.bool;
      default = null;
      description = "Whether the last lines of an activation travel with its outcome.";
    };
    fetch = mkOption {
      type = types.submodule {
        options = {
          rate_bytes_s = seconds null "Bytes a second a download may take; 0 for no limit.";
          stall_s = seconds null "Seconds without a byte before a download is tried again.";
          total_s = seconds null "Seconds a whole download may take.";
        };
      };
      default = { };
      description = "Limits of a download.";
    };
  };

  options.services.nixfleet.agent.volatileState = mkOption {
    type = types.nullOr types.bool;
    default = null;
    description = "Accept a state folder that a reboot empties: for containers and tests only.";
  };

  options.services.nixfleet.coordinator = {
    enable = mkEnableOption "the nixfleet coordinator, which carries signed updates and reports";
    package = mkOption {
      type = types.package;
      default = pkgs.nixfleet;
      defaultText = "pkgs.nixfleet";
      description = "The package that has bin/nixfleet.";
    };
    listen = mkOption {
      type = types.str;
      default = "127.0.0.1:7070";
      description = "Address and port to listen on.";
    };
    database = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "postgresql+asyncpg:///nixfleet?host=/run/postgresql";
      description = "Database URL; by default SQLite in the state folder. It must not hold a password: use a socket or a passfile.";
    };
    stateDir = mkOption {
      type = types.str;
      default = "/var/lib/nixfleet-coordinator";
      description = "Where the log key, the cache key, the built-in cache and the SQLite database live.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the port in the firewall.";
    };
  };

  config = mkMerge [
    (mkIf cfg.agent.enable {
      assertions = [
        {
          assertion = cfg.agent.tokenFile != null || cfg.agent.fleet != null;
          message = "services.nixfleet.agent: set tokenFile, or fleet and urls: a device never trusts on first use.";
        }
        {
          assertion = cfg.agent.tokenFile != null || cfg.agent.urls != [ ];
          message = "services.nixfleet.agent: set urls (or tokenFile, which holds them).";
        }
      ];
      # The agent refuses a system without this file: it would leave the fleet.
      environment.etc."nixfleet/agent.toml".source = agentFile;
      systemd.services.nixfleet-agent = {
        description = "nixfleet agent";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "nix-daemon.service" ];
        # The switch runs beside the agent and must not take it down half-way.
        restartIfChanged = false;
        stopIfChanged = false;
        unitConfig = { X-StopOnRemoval = false; StartLimitIntervalSec = 0; };
        path = [ config.nix.package ];
        serviceConfig = {
          ExecStart = "${cfg.agent.package}/bin/nixfleet agent run";
          Restart = "always";
          RestartSec = 5;
          KillMode = "process";
          UMask = "0077";
          # As far as activation allows: the switch itself runs in a transient unit of its own.
          LockPersonality = true;
          PrivateTmp = true;
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHome = "read-only";
          ProtectHostname = true;
          ProtectKernelLogs = true;
          RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" "AF_NETLINK" ];
          RestrictRealtime = true;
          SystemCallArchitectures = "native";
        };
      };
    })
    (mkIf cfg.coordinator.enable {
      networking.firewall.allowedTCPPorts =
        mkIf cfg.coordinator.openFirewall [ (lib.toInt (lib.last (lib.splitString ":" cfg.coordinator.listen))) ];
      users.users.nixfleet = { isSystemUser = true; group = "nixfleet"; };
      users.groups.nixfleet = { };
      systemd.services.nixfleet-coordinator = {
        description = "nixfleet coordinator";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "postgresql.service" ];
        environment.NIXFLEET_DATA_DIR = cfg.coordinator.stateDir;
        serviceConfig = {
          ExecStart = "${cfg.coordinator.package}/bin/nixfleet coordinator run --listen ${cfg.coordinator.listen}"
            + lib.optionalString (cfg.coordinator.database != null) " --database ${cfg.coordinator.database}";
          Restart = "on-failure";
          RestartSec = 2;
          User = "nixfleet";
          Group = "nixfleet";
          StateDirectory = mkIf (cfg.coordinator.stateDir == "/var/lib/nixfleet-coordinator") "nixfleet-coordinator";
          StateDirectoryMode = "0700";
          ReadWritePaths = [ cfg.coordinator.stateDir ];
          UMask = "0077";
          CapabilityBoundingSet = "";
          LockPersonality = true;
          MemoryDenyWriteExecute = true;
          NoNewPrivileges = true;
          PrivateDevices = true;
          PrivateTmp = true;
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHome = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectProc = "invisible";
          ProtectSystem = "strict";
          RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          SystemCallArchitectures = "native";
          SystemCallFilter = [ "@system-service" "~@privileged" ];
        };
      };
    })
  ];
}
