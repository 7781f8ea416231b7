#!/bin/sh
# Run targets of make side by side. Each says what it found when it ends; those that failed say it last, and behind all of them
# stands which tests failed, where it is seen.
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
[ -n "$failed" ] || exit 0
echo
echo "failed:$failed"
for target in $failed; do
  grep -E '^(FAILED|ERROR) ' "$logs/$target"
done
exit 1
