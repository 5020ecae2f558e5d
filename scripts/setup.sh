# Sourced by ./run and ./test: finds what is missing on this machine and installs it (Debian 12, Ubuntu 24.04 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

BUILD_PACKAGES=(g++ cmake ninja-build pkg-config libssl-dev libcurl4-openssl-dev nlohmann-json3-dev libspdlog-dev
  libfmt-dev libcli11-dev libpcre2-dev libutf8proc-dev prometheus-cpp-dev libxxhash-dev libexpected-dev libedit-dev
  zlib1g-dev ca-certificates)
TEST_PACKAGES=(libgtest-dev googletest libbenchmark-dev ccache nodejs openssl curl valgrind
  qemu-user-static g++-aarch64-linux-gnu clang-19 libclang-rt-19-dev clang-tidy-19)
EMULATOR_PACKAGES=(bochs bochsbios vgabios isolinux syslinux-common xorriso busybox-static cpio)

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# need_packages NAME…: installs those that are missing, in one go.
need_packages() {
  command -v dpkg-query >/dev/null || die "no dpkg here: install the libraries of scripts/setup.sh by hand, then use cmake --preset release"
  local missing=() package
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "missing packages: ${missing[*]}: as root, run apt-get install ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing: ${missing[*]}"
  "${sudo[@]}" apt-get update -q >&2
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

# Boost 1.81 or newer: Debian 12 has it under its own name.
boost_package() {
  if installed libboost1.81-dev || { [ ! -e /usr/include/boost/version.hpp ] && apt-cache show libboost1.81-dev >/dev/null 2>&1; }; then
    echo libboost1.81-dev
  elif grep -qs 'VERSION_ID="12"' /etc/os-release; then
    echo libboost1.81-dev
  else
    echo libboost-dev
  fi
}

need_build_packages() {
  need_packages "${BUILD_PACKAGES[@]}" "$(boost_package)"
  local cmake
  cmake=$(cmake --version | sed -n 's/^cmake version //p')
  [ "$(printf '%s\n' 3.25 "$cmake" | sort -V | head -1)" = 3.25 ] ||
    die "CMake is $cmake, and Quern needs 3.25 or newer: use Debian 12, Ubuntu 24.04 or newer, or install a newer CMake"
}

# build PRESET [TARGET…]: configures once, then builds what changed; quiet when that is little.
build() {
  local preset=$1 quiet=()
  shift
  if [ -f "build/$preset/.complete" ]; then quiet=(-- --quiet); fi
  [ -f "build/$preset/build.ninja" ] || cmake --preset "$preset" >&2
  cmake --build "build/$preset" ${1:+--target "$@"} "${quiet[@]}" >&2 || die "the build of $preset failed; its output is above"
  touch "build/$preset/.complete"
}
