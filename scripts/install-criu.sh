#!/usr/bin/env bash
# install-criu.sh PREFIX [SUITE]: CRIU 4.2 or newer below PREFIX, on Debian-like systems
# whose own version is too old.
#
# It comes from a newer suite of the archive that this machine uses already, with all
# its libraries, checked by apt against the archive's keys.  apt gets a state of its own
# below PREFIX: the system's packages and sources are left alone, and no root is needed.
# PREFIX/bin/criu runs it; point DEPLOYER_CRIU at that.  Running this again is fine.
set -euo pipefail

say() { echo "install-criu: $*" >&2; }
fail() { say "$*"; exit 1; }

prefix=$(realpath -m "${1:?usage: install-criu.sh PREFIX [SUITE]}")
oldest=4.2

new_enough() { # PROGRAM
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^Version: //p') || return 1
    [ -n "$version" ] && printf '%s\n%s\n' "$oldest" "$version" | sort -C -V
}

if [ -x "$prefix/bin/criu" ] && new_enough "$prefix/bin/criu"; then
    say "$prefix/bin/criu is there already"
    exit 0
fi
for tool in apt-get dpkg-deb dpkg find; do
    command -v "$tool" >/dev/null || fail "this needs \`$tool\` of a Debian-like system"
done

distribution=$(. /etc/os-release && echo "$ID")
case "$distribution" in
debian) suite=${2:-testing} origin=Debian components=main ;;
ubuntu) suite=${2:-devel} origin=Ubuntu components="main universe" ;;
*) fail "neither Debian nor Ubuntu: take CRIU $oldest or newer from your system" ;;
esac
keys=/usr/share/keyrings/$distribution-archive-keyring.gpg
[ -r "$keys" ] || fail "the keys of the archive are not at \`$keys\`"

# The main archive as this machine reaches it: security updates have another label.
archive=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' |
    sed -n "s/^$origin $origin //p" | head -n 1)
[ -n "$archive" ] || fail "apt knows no archive of $origin: run \`apt-get update\` once"

work=$prefix/apt
rm -rf "$work" "$prefix/root"
mkdir -p "$work"/{lists,archives}/partial "$prefix"/{bin,root}
echo "deb [signed-by=$keys] $archive $suite $components" >"$work/sources.list"
: >"$work/status"
options=(
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o Dir::State="$work" -o Dir::State::Lists="$work/lists"
    -o Dir::State::Status="$work/status" -o Dir::State::Extended_States="$work/extended"
    -o Dir::Cache="$work" -o Dir::Cache::Archives="$work/archives"
    -o APT::Install-Recommends=false -o APT::Sandbox::User="$(id -un)"
    -o Acquire::Languages=none -o Acquire::PDiffs=false -o Debug::NoLocking=1
)
say "fetching CRIU of $distribution $suite into $prefix"
apt-get -qq "${options[@]}" update
apt-get -qq -y "${options[@]}" install --download-only criu
for package in "$work"/archives/*.deb; do
    dpkg-deb --extract "$package" "$prefix/root"
done

loader=$(find "$prefix/root" -name 'ld-linux*.so*' | head -n 1)
program=$(find "$prefix/root" -path '*/sbin/criu' | head -n 1)
library=$(find "$prefix/root" -name 'libc.so.6' | head -n 1)
[ -n "$loader" ] && [ -n "$program" ] && [ -n "$library" ] ||
    fail "the packages do not hold what was expected"
# Its own loader and libraries: those of this machine may be too old for it.
libraries=$(dirname "$library"):$prefix/root/usr/lib/$(basename "$(dirname "$library")")
printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
    "$loader" "$libraries" "$program" >"$prefix/bin/criu"
chmod 0755 "$prefix/bin/criu"
rm -rf "$work"
new_enough "$prefix/bin/criu" ||
    fail "$suite has CRIU $("$prefix/bin/criu" --version | sed -n 1p), too old; name a" \
        "newer suite: install-criu.sh PREFIX SUITE"
say "$prefix/bin/criu is $("$prefix/bin/criu" --version | sed -n 1p)"
