#!/bin/sh
# Run targets of make side by side. Each says what it found when it ends; one that failed says it last, where it is seen.
#   sh tests/support/beside.sh check-tensors check-rest
logs=$(mktemp -d) || exit
trap 'rm -rf "$logs"' EXIT
echo "$* run side by side, and say nothing until they end"
for target; do
  if ${MAKE:-make} --no-print-directory "$target" >"$logs/$target" 2>&1; then
    cat "$logs/$target"
  else
    touch "$logs/$target.failed"
  fi &
done
wait
for target; do
  if [ -e "$logs/$target.failed" ]; then
    cat "$logs/$target"
    failed="$failed $target"
  fi
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
