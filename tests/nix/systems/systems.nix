# A system closure in the shape of NixOS, made from nothing but a static busybox: what a fleet manager touches of a
# NixOS toplevel is there, nothing of it boots. Builds offline in about a second.
{ bb                   # a folder that holds bin/busybox, statically linked
, version ? 1          # changes app, system-path, etc and the toplevel
, kib ? 192            # size of each package's blob
, kernelRev ? 1        # changes kernel, initrd and modules: takes a reboot
, initVersion ? "2"    # other than the running one: switch-to-configuration exits 100
, broken ? false       # the activation script fails: exit 2
, brokenUnit ? ""      # a unit that fails to start: exit 4
, ailing ? false       # its app ends with 1, which a check that runs it finds
, hostName ? ""        # empty: a system that many devices may share
, rootDevice ? ""      # the device of / in fstab, empty: no fstab
, agent ? true         # an enabled nixfleet-agent.service and its agent.toml
, agentToml ? ""
}:
let
  system = "x86_64-linux";
  busybox = builtins.path { name = "busybox-static"; path = bb; };

  # The builder is busybox itself: applets are chosen by the first argument, so no host path is needed.
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

  # Hexadecimal noise from a seed: the same in every store, and only half of it compresses away.
  blob = seed: size: ''
    awk -v seed=${toString seed} -v lines=${toString (size * 2)} 'BEGIN {
      srand(seed); for (i = 0; i < lines; i++) { l = ""; for (j = 0; j < 64; j++) l = l sprintf("%08x", rand() * 4294967295); print l } }' '';

  library = number: needs: run "lib${toString number}-1.${toString number}" { inherit needs; } ''
    mkdir -p $out/lib $out/bin
    ${blob number kib} > $out/lib/lib${toString number}.so
    echo "$needs" > $out/lib/needs
    printf '#!${shell}\necho lib${toString number}\n' > $out/bin/tool${toString number}; chmod +x $out/bin/tool${toString number}
  '';
  lib0 = library 0 "";
  lib1 = library 1 "${lib0}";
  lib2 = library 2 "${lib0} ${lib1}";

  release = "6.1.${toString kernelRev}";
  kernel = run "linux-${release}" { } ''
    mkdir -p $out/lib/modules/${release}
    ${blob (1000 + kernelRev) 512} > $out/bzImage
    ${blob (2000 + kernelRev) 64} > $out/lib/modules/${release}/net.ko
  '';
  modules = run "kernel-modules" { inherit kernel; } "mkdir -p $out/lib; ln -s $kernel/lib/modules $out/lib/modules";
  initrd = run "initrd-linux-${release}" { inherit modules; } ''
    mkdir $out; ${blob (3000 + kernelRev) 256} > $out/initrd; echo $modules >> $out/initrd'';
  systemd = run "systemd-255.4" { inherit lib1; } ''
    mkdir -p $out/lib/systemd; printf '#!${shell}\n# %s\nexec sleep 1d\n' $lib1 > $out/lib/systemd/systemd; chmod +x $out/lib/systemd/systemd'';
  app = run "app-${toString version}.0" { inherit lib2; } ''
    mkdir -p $out/bin $out/share
    ${blob (100 + version) kib} > $out/share/data
    printf '#!${shell}\necho app ${toString version}\n# %s\n${if ailing then "exit 1\\n" else ""}' $lib2 > $out/bin/app; chmod +x $out/bin/app
  '';
  sw = run "system-path" { all = "${lib0} ${lib1} ${lib2} ${app} ${tools}"; } ''
    mkdir -p $out/bin; for package in $all; do for program in $package/bin/*; do ln -sf $program $out/bin/; done; done'';
  etc = run "etc" { inherit app agentToml; } ''
    mkdir -p $out/etc/systemd/system/multi-user.target.wants $out/etc/nixfleet
    printf '[Service]\nExecStart=%s/bin/app\n' $app > $out/etc/systemd/system/app.service
    printf 'ID=nixos\nVERSION_ID="24.05"\nBUILD_ID="24.05.${toString version}"\nPRETTY_NAME="NixOS 24.05"\n' > $out/etc/os-release
    ${if hostName == "" then "" else "echo ${hostName} > $out/etc/hostname"}
    ${if rootDevice == "" then "" else "echo '${rootDevice} / ext4 defaults 0 1' > $out/etc/fstab"}
    ${if !agent then "" else ''
      printf '%s\n' "$agentToml" > $out/etc/nixfleet/agent.toml
      printf '[Service]\nExecStart=/run/current-system/sw/bin/nixfleet agent run\n' > $out/etc/systemd/system/nixfleet-agent.service
      ln -s ../nixfleet-agent.service $out/etc/systemd/system/multi-user.target.wants/nixfleet-agent.service
    ''}
  '';
in
run "nixos-system-${if hostName == "" then "unnamed" else hostName}-24.05.${toString version}" {
  inherit kernel modules initrd systemd sw etc;
  switchToConfiguration = builtins.readFile ./switch-to-configuration.sh;
  activation = builtins.readFile ./activate.sh;
  passAsFile = [ "switchToConfiguration" "activation" ];
} ''
  mkdir -p $out/bin $out/specialisation
  ln -s $kernel/bzImage $out/kernel; ln -s $initrd/initrd $out/initrd; ln -s $modules $out/kernel-modules
  ln -s $etc/etc $out/etc; ln -s $sw $out/sw; ln -s $systemd $out/systemd
  printf 'loglevel=4 rev=${toString kernelRev}' > $out/kernel-params
  printf '24.05.${toString version}' > $out/nixos-version
  printf '${system}' > $out/system
  printf 'systemd ${initVersion}' > $out/init-interface-version
  fill() { sed -e "s|@out@|$out|g" -e "s|@shell@|${shell}|g" -e "s|@path@|${tools}/bin|g" $1 > $2; chmod +x $2; }
  fill $activationPath $out/activate
  fill $activationPath $out/dry-activate
  fill $switchToConfigurationPath $out/bin/switch-to-configuration
  printf '#!${shell}\n@out@/activate\nexec %s/lib/systemd/systemd\n' $systemd | sed "s|@out@|$out|" > $out/init; chmod +x $out/init
  ${if broken then "echo 'echo \"activation script snippet broken failed (1)\" >&2; exit 1' >> $out/activate" else ""}
  ${if brokenUnit == "" then "" else "echo ${brokenUnit} > $out/broken-unit"}
''
