# The NixOS module: services.nixfleet.agent and services.nixfleet.coordinator.
# It uses plain lib.mkOption, mkIf and types alone, so that it evaluates with any nixpkgs of the last years.
# The bounds of the agent's options are those of src/nixfleet/agent/settings.py: what the agent would refuse to start
# with is refused here, before anything is built.
{ config, lib, pkgs, utils, ... }:
let
  inherit (lib) literalExpression mkEnableOption mkIf mkMerge mkOption types;
  cfg = config.services.nixfleet;
  toml = pkgs.formats.toml { };

  agentDir = "/var/lib/nixfleet";
  coordinatorDir = "/var/lib/nixfleet-coordinator";
  coordinatorPort = lib.toInt (lib.last (lib.splitString ":" cfg.coordinator.listen));
  # An argument is handed on as it is: systemd would expand the % of an encoded socket path in a database URL.
  command = utils.escapeSystemdExecArgs;

  # What is null was not said: the agent's own default holds.
  said = value:
    if builtins.isList value then map said value
    else if builtins.isAttrs value then
      builtins.mapAttrs (_: said) (removeAttrs value (builtins.filter (key: value.${key} == null) (builtins.attrNames value)))
    else value;

  # A setting that may be left to the agent's own default.
  maybe = type: description: mkOption {
    type = types.nullOr type;
    default = null;
    inherit description;
  };
  span = types.ints.between 1 86400;
  delay = types.ints.between 0 3600;
  name = types.strMatching "[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?";
  address = types.strMatching "https?://[!-~]+";
  place = types.strMatching "/[^[:cntrl:]]*";

  check = options: types.submodule {
    options = options // {
      timeout_s = maybe span "Seconds one try may take.";
      retries = maybe (types.ints.between 0 100) "Tries after the first one before the check counts as failed.";
      start_delay_s = maybe delay "Seconds to wait after the switch before the first try.";
    };
  };

  must = type: description: mkOption { inherit type description; };

  agentFile = toml.generate "agent.toml" (said {
    inherit (cfg.agent) name urls fleet checkpoint tags caches checks fetch;
    token_file = cfg.agent.tokenFile;
    key_file = cfg.agent.keyFile;
    state_dir = cfg.agent.stateDir;
    orphan_s = cfg.agent.orphanSeconds;
    poll_s = cfg.agent.pollSeconds;
    report_lines = cfg.agent.reportLines;
    volatile_state = cfg.agent.volatileState;
    # What the agent of this system replays: an older one would not follow the fleet's log any more.
    protocol = 1;
  });

  # What the agent and the one that stands in for it have in common.
  agentUnitConfig = {
    X-StopOnRemoval = false;
    RequiresMountsFor = [ cfg.agent.stateDir ];
  };
  # Nix keeps answers of caches in a cache folder, by default in a home that is read-only here.
  agentEnvironment = config.networking.proxy.envVars // { XDG_CACHE_HOME = "/var/cache/nixfleet"; };
  agentServiceConfig = {
    # A switch runs in a unit of its own, never in this one. The agent ends first: a check that the same signal
    # had cut short would look failed; what it leaves, as a download, ends with it.
    KillMode = "mixed";
    # A download that the kernel kills for memory is a failed download, not the agent's end.
    OOMPolicy = "continue";
    CacheDirectory = "nixfleet";
    CacheDirectoryMode = "0700";
    # A folder that ReadWritePaths names has to be there; systemd-tmpfiles makes one that is elsewhere.
    StateDirectory = mkIf (cfg.agent.stateDir == agentDir) "nixfleet";
    StateDirectoryMode = "0700";
    UMask = "0077";
    # The switch, the guard and a reboot run in units of their own, and so this one may do no more than the agent and
    # Nix need: fetch, root, collect and delete in /nix, keep the state, tell the boot loader, ask systemd. What is not
    # here would break that: garbage collection looks at what links in /tmp and home folders and at every process
    # (PrivateTmp, ProtectHome=true, ProtectProc, CAP_SYS_PTRACE), Nix makes /nix/store writable in a mount namespace
    # (CAP_SYS_ADMIN, RestrictNamespaces=mnt), boot entries are firmware variables (ProtectKernelTunables), immutable
    # until they are written (CAP_LINUX_IMMUTABLE), the host name is watched (ProtectHostname), and disks are looked for
    # in /dev (PrivateDevices).
    NoNewPrivileges = true;
    CapabilityBoundingSet = [
      "CAP_CHOWN" "CAP_DAC_OVERRIDE" "CAP_DAC_READ_SEARCH" "CAP_FOWNER" "CAP_FSETID" "CAP_KILL" "CAP_LINUX_IMMUTABLE"
      "CAP_SETGID" "CAP_SETUID" "CAP_SYS_ADMIN" "CAP_SYS_PTRACE" "CAP_SYS_RESOURCE"
    ];
    LockPersonality = true;
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = "read-only";
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectSystem = "strict";
    ReadWritePaths = [ "/nix" "/tmp" "/var/tmp" cfg.agent.stateDir "-/boot" "-/efi" ];
    RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" "AF_NETLINK" ];
    RestrictNamespaces = "mnt";
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [ "~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap" ];
  };
in
{
  options.services.nixfleet.agent = {
    enable = mkEnableOption "the nixfleet agent, which installs the updates that its fleet's admins have signed";
    package = mkOption {
      type = types.package;
      default = pkgs.nixfleet-agent;
      defaultText = literalExpression "pkgs.nixfleet-agent";
      description = "The package that has bin/nixfleet.";
    };
    name = mkOption {
      type = types.nullOr name;
      default = if config.networking.hostName == "" then null else lib.toLower config.networking.hostName;
      defaultText = literalExpression "lib.toLower config.networking.hostName";
      description = ''
        The name under which this device joins its fleet. null is the host name that it then has: for a system that
        several devices run.
      '';
    };
    tokenFile = mkOption {
      type = types.nullOr place;
      default = null;
      example = "/etc/nixfleet/token";
      description = ''
        File with a join token (`nixfleet enroll token`). It is a secret: never in the Nix store. It is read once, to
        join, and need not stay.
      '';
    };
    urls = mkOption {
      type = types.listOf address;
      default = [ ];
      example = [ "https://fleet.example.org" ];
      description = "Addresses of the coordinator, tried after those that the fleet's root names; at most 8.";
    };
    fleet = mkOption {
      type = types.nullOr (types.strMatching "[0-9a-f]{64}");
      default = null;
      description = "The fleet's id. Without a join token it is what pins the fleet: a device never trusts on first use.";
    };
    checkpoint = mkOption {
      type = types.nullOr (types.strMatching "(0|[1-9][0-9]{0,14}):[0-9a-f]{64}");
      default = null;
      example = "12:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
      description = "A state of the log, SIZE:ROOT, that the fleet's log must extend.";
    };
    tags = mkOption {
      type = types.attrsOf (types.strMatching "[A-Za-z0-9._-]{1,63}");
      default = { };
      example = { site = "berlin"; };
      description = "Tags to ask for when joining, where the token leaves a choice.";
    };
    keyFile = mkOption {
      type = types.nullOr place;
      default = null;
      description = "The device's key; by default its SSH host key, or a key of its own when it joins by token.";
    };
    stateDir = mkOption {
      type = place;
      default = agentDir;
      description = "Where the agent keeps its journal and its copy of the log. It must survive a reboot.";
    };
    caches = mkOption {
      type = types.listOf (types.submodule {
        options = {
          url = must address "Address of a binary cache.";
          key = must (types.strMatching "[A-Za-z0-9._-]{1,64}:[A-Za-z0-9+/]{43}=") "Its public key, name:base64.";
        };
      });
      default = [ ];
      description = "More binary caches to fetch from; what is installed is decided by signed digests all the same.";
    };
    checks = mkOption {
      type = types.submodule {
        options = {
          units = mkOption {
            type = types.listOf (check { unit = must types.str "A systemd unit that must be active."; });
            default = [ ];
            description = "Units that must be active after an update.";
          };
          http = mkOption {
            type = types.listOf (check {
              url = must address "Address that must answer.";
              status = maybe (types.ints.between 100 599) "The status it must answer with; by default any below 400.";
            });
            default = [ ];
            description = "Addresses that must answer after an update.";
          };
          tcp = mkOption {
            type = types.listOf (check {
              host = must types.str "Host to connect to.";
              port = must types.port "Port to connect to.";
            });
            default = [ ];
            description = "Ports that must accept a connection after an update.";
          };
          command = mkOption {
            type = types.listOf (check { argv = must (types.listOf types.str) "The command and its arguments."; });
            default = [ ];
            description = "Commands that must exit with 0 after an update.";
          };
          settle_s = maybe delay "Seconds after the switch until newly failed units are looked for.";
        };
      };
      default = { };
      description = "Checks an update must pass, beside the one that is always on: no newly failed unit.";
    };
    orphanSeconds = maybe span ''
      Seconds without the coordinator, while caches answer, before an unconfirmed update goes back.
    '';
    pollSeconds = maybe (types.ints.between 1 3600) "Seconds between polls where a proxy breaks event streams.";
    reportLines = maybe types.bool "Whether the last lines of an activation travel with its outcome.";
    fetch = mkOption {
      type = types.submodule {
        options = {
          rate_bytes_s = maybe types.ints.unsigned "Bytes a second a download may take; 0 for no limit.";
          stall_s = maybe span "Seconds without a byte before a download is tried again.";
          total_s = maybe span "Seconds a whole download may take.";
          netrc_file = maybe place "File with the passwords of caches, outside of the Nix store; by default /etc/nix/netrc.";
        };
      };
      default = { };
      description = "Limits of a download.";
    };
    volatileState = maybe types.bool "Accept a state folder that a reboot empties: for containers and tests only.";
  };

  options.services.nixfleet.coordinator = {
    enable = mkEnableOption "the nixfleet coordinator, which carries signed updates and reports";
    package = mkOption {
      type = types.package;
      default = pkgs.nixfleet;
      defaultText = literalExpression "pkgs.nixfleet";
      description = "The package that has bin/nixfleet.";
    };
    listen = mkOption {
      type = types.strMatching ".*:[0-9]{1,5}";
      default = "127.0.0.1:7070";
      example = "[::]:7070";
      description = "Address and port to listen on.";
    };
    database = mkOption {
      type = types.nullOr (types.strMatching "postgres(ql)?(\\+asyncpg)?://[!-~]*");
      default = null;
      example = "postgresql:///nixfleet?host=/run/postgresql";
      description = ''
        Address of a PostgreSQL database; by default SQLite in the state folder. It must not hold a password: use a
        socket, or a file that `systemd.services.nixfleet-coordinator.environment.PGPASSFILE` names.
      '';
    };
    stateDir = mkOption {
      type = place;
      default = coordinatorDir;
      description = ''
        Where the log key, the cache key, the built-in cache and the SQLite database live, owned by the user nixfleet.
        While there is no fleet in it, the service says in its journal how to claim it (`nixfleet init --claim`).
      '';
    };
    backup = {
      dir = mkOption {
        type = types.nullOr place;
        default = null;
        example = "/srv/backups/nixfleet";
        description = ''
          Folder for a sealed backup of database, log key and cache key, written every day; the newest 14 stay. It has
          to be there, and the user nixfleet has to be able to write it. With PostgreSQL the keys alone are in it.
        '';
      };
      passphraseFile = mkOption {
        type = types.nullOr place;
        default = null;
        example = "/run/secrets/nixfleet-backup";
        description = ''
          File with the passphrase of the backups, which the user nixfleet alone may read. It is a secret: never in the
          Nix store. Keep it elsewhere, too: without it no backup opens.
        '';
      };
    };
    metricsAnywhere = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to serve /metrics to others than this machine, too.";
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
        {
          assertion = cfg.agent.tokenFile == null || !lib.hasPrefix builtins.storeDir cfg.agent.tokenFile;
          message = "services.nixfleet.agent.tokenFile is in the Nix store, where everybody can read it.";
        }
        {
          assertion =
            cfg.agent.fetch.netrc_file == null || !lib.hasPrefix builtins.storeDir cfg.agent.fetch.netrc_file;
          message = "services.nixfleet.agent.fetch.netrc_file is in the Nix store, where everybody can read it.";
        }
      ];
      systemd.tmpfiles.rules = mkIf (cfg.agent.stateDir != agentDir) [ "d ${cfg.agent.stateDir} 0700 root root -" ];
      # `nixfleet agent status` and `check`, for whoever is root on the device.
      environment.systemPackages = [ cfg.agent.package ];
      # The agent refuses a system without this file: it would leave the fleet.
      environment.etc."nixfleet/agent.toml".source = agentFile;
      systemd.services.nixfleet-agent = {
        description = "nixfleet agent";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        # A switch must not take down the agent that watches over it. When the new system's agent or its agent.toml is
        # another, the agent ends by itself once the switch is through, and systemd starts the new one.
        restartIfChanged = false;
        stopIfChanged = false;
        unitConfig = agentUnitConfig // {
          # One that crashes over and over makes way for the last one that synced, which never stops trying: with no
          # agent at all, nobody could mend the device from afar.
          StartLimitIntervalSec = 600;
          StartLimitBurst = 5;
          OnFailure = [ "nixfleet-rescue.service" ];
        };
        path = [ config.nix.package ];
        environment = agentEnvironment;
        # The token is no systemd credential: it may go once the device has joined, and a unit whose credential is
        # missing does not start.
        serviceConfig = agentServiceConfig // {
          ExecStart = command [ "${cfg.agent.package}/bin/nixfleet" "agent" "run" ];
          Restart = "always";
          # Else, from systemd 254 on, each single crash would be a failed unit, and start the rescue unit.
          RestartMode = "direct";
          RestartSec = 5;
        };
      };
      # The last agent that synced, in the place of one that crashes or is silent. It changes no system by itself: it
      # takes back an update that its successor never confirmed, and brings what is signed next.
      systemd.services.nixfleet-rescue = {
        description = "nixfleet rescue: the last agent that synced";
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        conflicts = [ "nixfleet-agent.service" ];
        restartIfChanged = false;
        stopIfChanged = false;
        unitConfig = agentUnitConfig // { StartLimitIntervalSec = 0; };
        path = [ config.nix.package config.systemd.package ];
        environment = agentEnvironment // {
          NIXFLEET_RESCUE_PACKAGE = "${cfg.agent.package}";
          NIXFLEET_RESCUE_STATE = cfg.agent.stateDir;
        };
        script = builtins.readFile ./rescue.sh;
        # Once it has switched it ends well, and the agent of the system that runs then gets its turn.
        postStop = ''
          [ "$SERVICE_RESULT" = success ] || exit 0
          systemctl reset-failed nixfleet-agent.service || true
          systemctl --no-block start nixfleet-agent.service || true
        '';
        serviceConfig = agentServiceConfig // {
          Restart = "on-failure";
          RestartSec = 60;
        };
      };
      # Hours are counted by the clock that no battery and no server can set; the agent ends the count at each sync.
      systemd.services.nixfleet-silence = {
        description = "nixfleet: count an hour without a sync";
        path = [ config.systemd.package ];
        environment = {
          NIXFLEET_RESCUE_PACKAGE = "${cfg.agent.package}";
          NIXFLEET_RESCUE_STATE = cfg.agent.stateDir;
        };
        unitConfig.RequiresMountsFor = [ cfg.agent.stateDir ];
        script = builtins.readFile ./silence.sh;
        serviceConfig = { Type = "oneshot"; UMask = "0077"; };
      };
      systemd.timers.nixfleet-silence = {
        description = "nixfleet: look for an agent that is silent for 7 days";
        wantedBy = [ "timers.target" ];
        timerConfig = { OnActiveSec = 3600; OnUnitActiveSec = 3600; };
      };
    })
    (mkIf cfg.coordinator.enable {
      assertions = [
        {
          assertion = (cfg.coordinator.backup.dir == null) == (cfg.coordinator.backup.passphraseFile == null);
          message = "services.nixfleet.coordinator.backup: set both dir and passphraseFile, or neither.";
        }
        {
          assertion =
            cfg.coordinator.backup.passphraseFile == null
            || !lib.hasPrefix builtins.storeDir cfg.coordinator.backup.passphraseFile;
          message = "services.nixfleet.coordinator.backup.passphraseFile is in the Nix store, where everybody can read it.";
        }
      ];
      networking.firewall.allowedTCPPorts = mkIf cfg.coordinator.openFirewall [ coordinatorPort ];
      users.users.nixfleet = { isSystemUser = true; group = "nixfleet"; };
      users.groups.nixfleet = { };
      # systemd makes the default folder (StateDirectory); another one has to be there for ReadWritePaths.
      systemd.tmpfiles.rules = mkIf (cfg.coordinator.stateDir != coordinatorDir) [
        "d ${cfg.coordinator.stateDir} 0700 nixfleet nixfleet -"
      ];
      systemd.services.nixfleet-coordinator = {
        description = "nixfleet coordinator";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "postgresql.service" "postgresql.target" ];
        environment.NIXFLEET_DATA_DIR = cfg.coordinator.stateDir;
        unitConfig = {
          RequiresMountsFor = [ cfg.coordinator.stateDir ];
          # A database or an address that is not there yet is waited for.
          StartLimitIntervalSec = 0;
        };
        serviceConfig = {
          ExecStart = command (
            [ "${cfg.coordinator.package}/bin/nixfleet" "coordinator" "run" "--listen" cfg.coordinator.listen ]
            ++ lib.optionals (cfg.coordinator.database != null) [ "--database" cfg.coordinator.database ]
            ++ lib.optionals cfg.coordinator.metricsAnywhere [ "--metrics-anywhere" ]
            ++ lib.optionals (cfg.coordinator.backup.dir != null) [
              "--backup-dir"
              cfg.coordinator.backup.dir
              "--backup-passphrase-file"
              cfg.coordinator.backup.passphraseFile
            ]
          );
          Restart = "on-failure";
          RestartSec = 5;
          User = "nixfleet";
          Group = "nixfleet";
          StateDirectory = mkIf (cfg.coordinator.stateDir == coordinatorDir) "nixfleet-coordinator";
          StateDirectoryMode = "0700";
          ReadWritePaths = [ cfg.coordinator.stateDir ]
            ++ lib.optionals (cfg.coordinator.backup.dir != null) [ "-${cfg.coordinator.backup.dir}" ];
          UMask = "0077";
          # Ports below 1024 are bound by this one capability, and by no other.
          AmbientCapabilities = mkIf (coordinatorPort < 1024) [ "CAP_NET_BIND_SERVICE" ];
          CapabilityBoundingSet = if coordinatorPort < 1024 then [ "CAP_NET_BIND_SERVICE" ] else [ "" ];
          DevicePolicy = "closed";
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
          RemoveIPC = true;
          RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          SystemCallArchitectures = "native";
          SystemCallErrorNumber = "EPERM";
          SystemCallFilter = [ "@system-service" "~@privileged" ];
        };
      };
    })
  ];
}
