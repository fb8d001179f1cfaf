#!/bin/sh
# Style and correctness of everything that is not a Python test.
set -eu
yamllint --strict .
ansible-lint --strict --offline
git ls-files --cached --others --exclude-standard | while read -r file; do
  [ -f "$file" ] && head -c 2 "$file" | grep -q '^#!' && head -n 1 "$file" | grep -Eq '(ba)?sh$' && echo "$file"
done | xargs shellcheck
