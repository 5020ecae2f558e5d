# Reads `ctest -V`: prints each test's result line, the whole output of those that failed, every reason for a skip,
# and ctest's own summary at the end.
/^[0-9]+: / {
  number = $1 + 0
  output[number] = output[number] $0 "\n"
  if (reason[number] || /skipped: /) { print; reason[number] = 0 }
  if (/: Skipped$/) { print; reason[number] = 1 }
  next
}
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
  print
  match($0, /#[0-9]+/)
  number = substr($0, RSTART + 1, RLENGTH - 1) + 0
  if (/\*\*\*/ && !/\*\*\*Skipped/) printf "%s", output[number]
  delete output[number]
  fflush()
  next
}
/^(test [0-9]+| *Start |Test command|Working Directory|Test timeout|Environment variables|UpdateCTest|Parse |Add |Test project|Constructing|Updating|Checking|Done )/ { next }
/^ *[A-Z_]+=/ { next }
/^$/ && !summary { next }
/tests passed|No tests were found/ { summary = 1 }
{ print }
