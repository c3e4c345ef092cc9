#!/bin/sh
# Prints what CHANGELOG.md says of a version: scripts/release-notes.sh 0.2.0
set -eu
cd "$(dirname "$0")/.."
notes=$(awk -v version="${1:?a version such as 0.2.0}" '
  /^## / { is_it = index($0, "## [" version "]") == 1; next }
  is_it { print }
' CHANGELOG.md)
[ -n "$notes" ] || {
  echo "CHANGELOG.md has no section [$1] with text in it" >&2
  exit 1
}
printf '%s\n' "$notes"
