# A system in the shape of NixOS that a real systemd runs: the agent's units as the module writes them, the agent's
# package, an app, and a switch that stops, restarts and starts units. The programs of the system itself are Debian's.
{ bb                    # a folder that holds bin/busybox, statically linked
, agentLib              # a folder with all Python packages of the agent
, units                 # a folder with units, scripts and agent.toml (tests.vm.units); @agent@ is the agent's package
, version ? 1           # changes app, etc and the toplevel
, agentVersion ? 1      # changes the agent's package, and so its unit
, crashes ? false       # its agent ends with 1 as soon as it is started
, ailing ? false        # its app fails to start
, endsTheAgent ? false  # its switch stops the agent, and does not start it again
, kernelRev ? 1         # changes kernel, initrd and modules
, initVersion ? "2"     # other than the running one: the switch asks for a reboot
}:
let
  system = "x86_64-linux";
  busybox = builtins.path { name = "busybox-static"; path = bb; };
  derive = name: env: script: derivation ({
    inherit name system;
    builder = "${busybox}/bin/busybox";
    args = [ "sh" "-euc" script ];
    preferLocalBuild = true;
    allowSubstitutes = false;
  } // env);
  tools = derive "tools" { } ''
    ${busybox}/bin/busybox mkdir -p $out/bin
    for applet in $(${busybox}/bin/busybox --list); do ${busybox}/bin/busybox ln -s ${busybox}/bin/busybox $out/bin/$applet; done
  '';
  shell = "${tools}/bin/sh";
  run = name: env: derive name (env // { PATH = "${tools}/bin"; });
  path = name: from: builtins.path { inherit name; path = /. + from; };

  library = path "nixfleet-agent-lib" agentLib;
  agent = run "nixfleet-agent-0.${toString agentVersion}" { inherit library; program = if crashes then ''
    #!/bin/sh
    echo "the new agent is broken" >&2
    exit 1
  '' else ''
    #!/usr/bin/python3 -IB
    # Version ${toString agentVersion}
    import sys
    sys.path.insert(0, "@out@/lib")
    from nixfleet.__main__ import main
    sys.exit(main())
  ''; } ''
    mkdir -p $out/bin; cp -r $library $out/lib
    echo "$program" | sed "s|@out@|$out|" > $out/bin/nixfleet; chmod +x $out/bin/nixfleet
  '';

  kernel = run "linux-6.1.${toString kernelRev}" { } "mkdir -p $out/lib/modules; echo ${toString kernelRev} > $out/bzImage";
  systemd = run "systemd-257-${initVersion}" { } "mkdir -p $out/lib/systemd; ln -s /usr/lib/systemd/systemd $out/lib/systemd/systemd";
  app = run "app-${toString version}.0" { } ''
    mkdir -p $out/bin
    printf '#!${shell}\n%s\n' ${if ailing then "'echo \"cannot open the till: no such device\" >&2; exit 1'" else "'exec sleep 1d'"} > $out/bin/app
    chmod +x $out/bin/app
  '';
  # What NixOS has in its system path, and what is Debian's here.
  sw = run "system-path" { inherit agent app; } ''
    mkdir -p $out/bin; for program in ${tools}/bin/* $agent/bin/* $app/bin/*; do ln -sf $program $out/bin/; done
    for name in flock nix-env nix-store systemctl journalctl; do ln -sf /usr/bin/$name $out/bin/$name; done
  '';
  etc = run "etc" { inherit app agent; units = path "units" units; } ''
    folder=$out/etc/systemd/system
    mkdir -p $folder/multi-user.target.wants $folder/timers.target.wants $out/etc/nixfleet
    fill() { sed -e "s|@agent@|$agent|g" -e "s|@units@|$out/units|g" $1 > $2; }
    mkdir $out/units
    for file in $units/scripts/*; do fill $file $out/units/''${file##*/}; chmod +x $out/units/''${file##*/}; done
    for file in $units/*.service $units/*.timer; do
      name=''${file##*/}; fill $file $folder/$name
      for target in multi-user timers; do
        if grep -q "^WantedBy=$target.target" $file; then ln -s ../$name $folder/$target.target.wants/$name; fi
      done
    done
    cp $units/agent.toml $out/etc/nixfleet/agent.toml
    printf '[Service]\nExecStart=%s/bin/app\n' $app > $folder/app.service
    ln -s ../app.service $folder/multi-user.target.wants/app.service
    printf 'ID=nixos\nVERSION_ID="25.05"\nBUILD_ID="25.05.${toString version}"\nPRETTY_NAME="NixOS 25.05"\n' > $out/etc/os-release
  '';
in
run "nixos-system-web-01-25.05.${toString version}" {
  inherit kernel systemd sw etc;
  switchToConfiguration = builtins.readFile ./switch-to-configuration.sh;
  activation = builtins.readFile ./activate.sh;
  stage2 = builtins.readFile ./init.sh;
  passAsFile = [ "switchToConfiguration" "activation" "stage2" ];
} ''
  mkdir -p $out/bin $out/specialisation
  ln -s $kernel/bzImage $out/kernel; ln -s $kernel/bzImage $out/initrd; ln -s $kernel $out/kernel-modules
  ln -s $etc/etc $out/etc; ln -s $sw $out/sw; ln -s $systemd $out/systemd
  printf 'loglevel=4 rev=${toString kernelRev}' > $out/kernel-params
  printf '25.05.${toString version}' > $out/nixos-version
  printf '${system}' > $out/system
  printf 'systemd ${initVersion}' > $out/init-interface-version
  ${if endsTheAgent then "touch $out/ends-the-agent" else ""}
  fill() { sed -e "s|@out@|$out|g" -e "s|@shell@|${shell}|g" -e "s|@path@|${tools}/bin|g" $1 > $2; chmod +x $2; }
  fill $activationPath $out/activate
  fill $switchToConfigurationPath $out/bin/switch-to-configuration
  fill $stage2Path $out/init
''
