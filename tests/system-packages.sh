#!/bin/sh
# Install the Debian packages that the tests drive (or, with `venv`, just what makes a virtual environment; with `vm`,
# what makes and runs the machines of `make test-vm`).
# Without root or apt it says what is missing and goes on: the tests that need it then skip, with a reason.
set -eu
need=
want() { command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || need="$need $2"; }

if [ "${1:-}" = venv ]; then
  "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || need="$need python3-venv"
elif [ "${1:-}" = vm ]; then
  want debootstrap debootstrap
  want systemd-nspawn systemd-container
else
  want nix-store nix-bin
  want /bin/busybox busybox-static
  want tmux tmux
  want ssh-agent openssh-client
  want nft nftables
  want ip iproute2
  want git git
  want less less
  want systemd-analyze systemd
  want /bin/kill procps
  want /usr/sbin/grub-reboot grub2-common
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need="$need postgresql"
fi

[ -n "$need" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing:$need"
  # A fresh postgresql package would start a cluster of its own; the tests make theirs.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  # shellcheck disable=SC2086  # a list of packages
  apt-get -qq install -y --no-install-recommends $need >/dev/null
else
  echo "missing, and not root to install it:$need"
fi
