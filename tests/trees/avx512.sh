# Runs the kernels' unit tests on an emulated Ice Lake (Bochs), for machines without AVX-512. Sourced by tests/trees/run.
# Bochs boots Debian's kernel with a file system in memory that holds the tests and their libraries alone; what they print
# comes out of the serial port.
tests=(quern_backend_test quern_quant_test)
filter='*avx512*:Machine.*:Pack.*:Encode.*'

grep -qs avx512_vnni /proc/cpuinfo && skip "this CPU has AVX-512: the unit tests ran its kernels"
for program in "${tests[@]}"; do
  [ -x "$QUERN_BIN/$program" ] || skip "no $QUERN_BIN/$program: cmake --preset dev and build it"
done
source scripts/setup.sh
for package in "${EMULATOR_PACKAGES[@]}"; do installed "$package" || skip "no package $package"; done

here=$(mktemp -d)
bochs=
trap '[ -z "$bochs" ] || kill "$bochs" 2>/dev/null || true; rm -rf "$here"' EXIT
cd "$here"

# A kernel image of the distribution; it is unpacked, not installed.
kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
[ -n "$kernel" ] || kernel=$(apt-cache depends linux-image-generic 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
[ -n "$kernel" ] || skip "apt knows no kernel image: apt-get update"
apt-get download -q "$kernel-unsigned" >/dev/null 2>&1 || apt-get download -q "$kernel" >/dev/null 2>&1 || skip "cannot download $kernel"
dpkg-deb -x linux-image-*.deb kernel

mkdir -p root/{bin,dev,proc,sys,tmp} disk/isolinux
cp "$(command -v busybox)" root/bin/
for program in "${tests[@]}"; do
  strip -o "root/bin/$program" "$QUERN_BIN/$program"
  ldd "$QUERN_BIN/$program" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "root$(dirname "$library")"
    cp -Ln "$library" "root$library"
  done
done
{
  echo '#!/bin/busybox sh'
  echo '/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sys /sys; /bin/busybox mount -t devtmpfs dev /dev'
  echo '/bin/busybox grep -q avx512_vnni /proc/cpuinfo || echo "FAILED: the emulated CPU has no AVX-512"'
  for program in "${tests[@]}"; do
    echo "cd /tmp; /bin/$program --gtest_color=no --gtest_filter='$filter' || echo FAILED: $program"
  done
  echo 'echo finished; while :; do /bin/busybox sleep 1000; done'
} > root/init
chmod +x root/init
(cd root && find . | cpio -o -H newc --quiet) | gzip -1 > disk/isolinux/initrd.gz
cp kernel/boot/vmlinuz-* disk/isolinux/vmlinuz
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 disk/isolinux/

# What this CPU model says of itself confuses Linux: it gives no size for PKU's state, the standard size of the saved state
# for the compacted one, and fast short copies without fast copies: those bits are cleared (pku, xsavec, xsaves, fsrm).
cat > disk/isolinux/isolinux.cfg <<'END'
default linux
prompt 0
label linux
  kernel vmlinuz
  append initrd=initrd.gz console=ttyS0,115200 quiet clearcpuid=515,321,323,580 acpi=off nolapic noapic nosmp nohpet idle=halt tsc=reliable clocksource=tsc no_timer_check lpj=1000000 mitigations=off lsm= random.trust_cpu=on
END
xorriso -as mkisofs -quiet -o disk.iso -b isolinux/isolinux.bin -c isolinux/boot.cat \
  -no-emul-boot -boot-load-size 4 -boot-info-table disk 2>/dev/null
# No sound: without a card its mixer ends Bochs.
cat > bochsrc <<'END'
megs: 2048
cpu: model=corei7_icelake_u, count=1, ips=50000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
panic: action=report
error: action=ignore
info: action=ignore
display_library: rfb, options="timeout=0"
speaker: enabled=1, mode=none
sound: waveoutdrv=dummy, waveout=none, waveindrv=dummy, midioutdrv=dummy
clock: sync=none
END
echo c > continue
bochs -q -f bochsrc -rc continue > bochs.out 2>&1 &
bochs=$!

until grep -qs '^finished' serial.txt; do
  if ! kill -0 "$bochs" 2>/dev/null; then
    cat bochs.out bochs.log
    echo "Bochs ended"
    exit 1
  fi
  if grep -qs 'Kernel panic' serial.txt; then
    cat serial.txt
    exit 1
  fi
  sleep 2
done
cat serial.txt
[ "$(grep -c '\[  PASSED  \]' serial.txt)" = "${#tests[@]}" ] && ! grep -q FAILED serial.txt
