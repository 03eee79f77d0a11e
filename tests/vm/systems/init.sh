#!@shell@
# What a NixOS system's stage 2 does: activate, note what was booted, become systemd.
PATH=@path@
@out@/activate
ln -sfn @out@ /run/booted-system
exec /usr/lib/systemd/systemd
