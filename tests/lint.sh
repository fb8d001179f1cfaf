#!/bin/sh
# Style and correctness of everything that is not a Python test.
set -eu
python -c 'from sandbox import debian; debian.ensure({"shellcheck": "shellcheck"})'
yamllint --strict .
# Scenarios lie elsewhere than playbooks, beside which Ansible looks for collections.
export ANSIBLE_COLLECTIONS_PATH="$PWD/playbooks/collections"
ansible-lint --strict --offline
git ls-files --cached --others --exclude-standard | while read -r file; do
  [ -f "$file" ] && head -c 2 "$file" | grep -q '^#!' && head -n 1 "$file" | grep -Eq '(ba)?sh$' && echo "$file"
done | xargs shellcheck
