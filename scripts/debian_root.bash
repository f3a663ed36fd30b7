# A Debian of its own in a folder, for scripts that need a machine unlike this one. Sourced by them; needs root.

# make_root FOLDER RELEASE [ARGUMENT OF debootstrap...]: made once; later calls only copy this machine's settings of network
# and pip, without which nothing can be fetched here or there.
make_root() {
    local root=$1 release=$2 file
    ((EUID == 0)) || { echo "${0##*/}: making a Debian of its own needs root" >&2; exit 1; }
    command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap
    if ! [[ -e $root/ready ]]; then
        rm -rf --one-file-system "$root" && mkdir -p "$root"
        debootstrap --variant=minbase "${@:3}" "$release" "$root" >"$root.log" || { tail "$root.log" >&2; exit 1; }
        touch "$root/ready"
    fi
    for file in /etc/{resolv.conf,hosts,pip.conf,xdg/pip,ssl/certs/ca-certificates.crt} ~/.config/pip; do
        [[ ! -e $file ]] || { mkdir -p "$root${file%/*}" && cp -rLT "$file" "$root$file"; }
    done
}

# inside FOLDER COMMAND...: what is mounted belongs to a mount namespace of its own, so it ends with the command, as do
# the processes that the command leaves.
inside() {
    # shellcheck disable=SC2016 # for the shell inside
    unshare --mount --pid --fork --kill-child bash -c '
        mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" &&
            exec chroot "$0" env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"' "$@"
}
