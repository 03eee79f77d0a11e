#!@shell@
# Stand-in for the activation script of a NixOS system.
PATH=@path@
[ -e /etc/NIXOS ] || { echo "not in a test machine: refusing to touch /etc and /run" >&2; exit 1; }
echo "setting up /etc..." >&2
mkdir -p /run /etc
ln -sfn @out@ /run/current-system.tmp && mv -fT /run/current-system.tmp /run/current-system
# Removed first: on a Debian host this is a link into /usr, and a copy would go through it.
rm -f /etc/os-release; cp @out@/etc/os-release /etc/os-release
