#!/bin/busybox sh
# Process 1 of the guest: loads the drivers, then runs what comes over the second serial port.
#   in:  "@run LENGTH SECONDS COMMAND LINE", its length in characters
#   out: what it prints, then a line "@exit STATUS"; 143 after SECONDS; "@again" of a line that lost some on its way
export PATH=/bin
export HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in /modules/*; do
    insmod "$module" || echo "insmod $module failed"
done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo "@exit 0"
while read -r mark length seconds line; do
    if [ "$mark" != @run ] || [ "${#line}" != "$length" ]; then
        [ -z "$mark" ] || printf '\n@again\n'
        continue
    fi
    timeout "$seconds" sh -c "$line" </dev/null
    printf '\n@exit %d\n' $?
done
poweroff -f
