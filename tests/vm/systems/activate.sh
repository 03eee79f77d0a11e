#!@shell@
# Stand-in for the activation script of a NixOS system: its /etc, its units, and the links that tell what runs.
PATH=@path@
[ -e /etc/NIXOS ] || { echo "not in a test machine: refusing to touch /etc and /run" >&2; exit 1; }
echo "setting up /etc..." >&2
place() { ln -sfn "$1" "$2.tmp" && mv -fT "$2.tmp" "$2"; }
place @out@ /run/current-system
place @out@/etc /etc/static
[ -L /etc/systemd/system ] || rm -rf /etc/systemd/system
place /etc/static/systemd/system /etc/systemd/system
mkdir -p /etc/nixfleet
place /etc/static/nixfleet/agent.toml /etc/nixfleet/agent.toml
# Removed first: on Debian this is a link into /usr.
rm -f /etc/os-release; cp @out@/etc/os-release /etc/os-release
