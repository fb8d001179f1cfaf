#!/bin/sh
# Checks style and types of all files. Tests run elsewhere.
set -eu
yamllint --strict .
ruff check --quiet
mypy --no-error-summary
antsibull-changelog lint
# Ansible looks for collections beside playbooks, but scenarios are in another folder.
export ANSIBLE_COLLECTIONS_PATH="$PWD/playbooks/collections"
ansible-lint --strict --offline
git ls-files --cached --others --exclude-standard | while read -r file; do
  [ -f "$file" ] && head -c 2 "$file" | grep -q '^#!' && head -n 1 "$file" | grep -Eq '(ba)?sh$' && echo "$file"
done | xargs shellcheck
go_tool() {
  python3 -c 'import sys; from sandbox.from_source import tools; print(tools.build(sys.argv[1]) / sys.argv[1])' "$1"
}
actionlint=$(go_tool actionlint)
"$actionlint"
staticcheck=$(go_tool staticcheck)
for module in docker/registry tests/conformance tests/reference bench/load; do
  (cd "$module" && gofmt -l . | { ! grep .; } && go vet ./... && "$staticcheck" ./...)
done
