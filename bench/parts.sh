# Sourced by the scripts that have one short session on some machine. `logs` is where they write.

# part NAME SECONDS COMMAND…: runs it under a time limit and shows the end of what it printed, less the tests that passed. One
# that fails does not end the others.
part() {
  local name=$1 limit=$2 began=$SECONDS rc
  shift 2
  printf '\n==== %s\n' "$name"
  timeout "$limit" "$@" > "$logs/$name.log" 2>&1
  rc=$?
  grep -vE '^\[( RUN      |       OK |-+)\]|^$' "$logs/$name.log" | tail -n "${LINES_SHOWN:-40}"
  printf -- '---- %s: status %d, %d s\n' "$name" "$rc" $((SECONDS - began))
}
