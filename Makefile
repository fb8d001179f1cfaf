SANDBOX := python3 -m sandbox
S ?= site

.PHONY: help try demo demo-env demo-down check test e2e lint unit sanity matrix image molecule pin promises vulncheck bench bench-kind

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

try: ## the cache without a cluster, for a first look; in front of a registry of yours: make try UPSTREAM=ghcr.io/owner/image:1.0
	@python3 -m tools.trial $(if $(UPSTREAM),--upstream "$$UPSTREAM") $(if $(PORT),--port "$$PORT") $(if $(ONCE),--once)

demo: ## a kind cluster, the Google emulator, the cache, and its main promises proved
	@$(SANDBOX) up
	@$(SANDBOX) run python -m sandbox.demo

demo-env: ## shell exports to look around in the demo: eval "$(make demo-env)"
	@$(SANDBOX) env

demo-down: ## remove all that the demo started; builds stay in the cache
	@$(SANDBOX) down

check: ## lint and unit tests, without root or other programs: for every save
	@python3 -m tools.run check

test: ## check, and one test for every promise of the documentation, on real parts
	@python3 -m tools.run test

e2e: ## the long form, for hours; one topic of it: make e2e TOPIC=faults
	@python3 -m tools.run e2e $(TOPIC)

lint: ## ansible-lint (profile production), yamllint, ruff, mypy, shellcheck, go vet, staticcheck
	@python3 -m tools.run check lint

unit: ## pytest
	@python3 -m tools.run check unit

sanity: ## ansible-test sanity on the built collection
	@python3 -m tools.run test sanity

image: ## role image with docker and podman, on registries of loopback
	@python3 -m tools.run test image

molecule: ## one scenario on kind, which stays up: make molecule S=site, then S=default removes it
	@$(SANDBOX) --name test up
	@$(SANDBOX) --name test run -- molecule $(if $(filter default,$(S)),destroy,test --destroy never) --scenario-name $(S)

matrix: ## tests of plugins and sanity with every ansible-core from 2.16 on; some of them: make matrix CORE="2.16 2.21"
	@$(SANDBOX) tool -- python -m tools.matrix $(CORE)

pin: ## a pin of the image's programs: make pin PIN=github.com/distribution/distribution/v3@v3.1.2, or PIN=go@1.26.10
	@sh tools/pin.sh "$(PIN)"

promises: ## the table of promises in docs/development/testing.md, from tests/tiers.toml
	@$(SANDBOX) tool -- python -m tools.promises

vulncheck: ## govulncheck on the image's programs with today's database, which needs the internet
	@$(SANDBOX) tool -- python -m tools.vulnerabilities --live

bench: ## side-by-side measurements on loopback; one of them: make bench ROW=warm-pull
	@$(SANDBOX) tool -- python -m bench $(if $(ROW),--only $(ROW))

bench-kind: ## what only a cluster has: three nodes, replicas that come, leave, die and vanish under load, outages
	@$(SANDBOX) --name test up
	@$(SANDBOX) --name test run python -m bench.kind
