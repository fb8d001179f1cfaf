SANDBOX := python3 -m sandbox
S ?= site

.PHONY: help try demo demo-env demo-down check test e2e lint unit sanity matrix image molecule pin promises docs vulncheck bench bench-kind

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

try: ## try the cache without a cluster; in front of your registry: make try UPSTREAM=ghcr.io/owner/image:1.0
	@python3 -m tools.trial $(if $(UPSTREAM),--upstream "$$UPSTREAM") $(if $(PORT),--port "$$PORT") $(if $(ONCE),--once)

demo: ## start a kind cluster, the Google emulator and the cache, and verify its main promises
	@$(SANDBOX) up
	@$(SANDBOX) run python -m sandbox.demo

demo-env: ## print shell variables for the demo: eval "$(make demo-env)"
	@$(SANDBOX) env

demo-down: ## remove the demo; cached builds are kept
	@$(SANDBOX) down

check: ## run lint and unit tests, without root or other programs; run it after every change
	@python3 -m tools.run check

test: ## run check, and one test per promise in the documentation, on a real cluster
	@python3 -m tools.run test

e2e: ## run all end-to-end tests, which takes hours; one topic: make e2e TOPIC=faults
	@python3 -m tools.run e2e $(TOPIC)

lint: ## run ansible-lint (profile production), yamllint, ruff, mypy, shellcheck, go vet and staticcheck
	@python3 -m tools.run check lint

unit: ## run unit tests
	@python3 -m tools.run check unit

sanity: ## run ansible-test sanity on the built collection
	@python3 -m tools.run test sanity

image: ## run the tests of role image, with docker, podman and registries on loopback
	@python3 -m tools.run test image

molecule: ## run a scenario on kind: make molecule S=site; the cluster stays up until make molecule S=default
	@$(SANDBOX) --name test up
	@$(SANDBOX) --name test run -- molecule $(if $(filter default,$(S)),destroy,test --destroy never) --scenario-name $(S)

matrix: ## run plugin and sanity tests with every ansible-core since 2.16; selected ones: make matrix CORE="2.16 2.21"
	@$(SANDBOX) tool -- python -m tools.matrix $(CORE)

pin: ## pin a version of the image's programs: make pin PIN=github.com/distribution/distribution/v3@v3.1.2, or PIN=go@1.26.10
	@sh tools/pin.sh "$(PIN)"

promises: ## update the table of promises in docs/development/testing.md from tests/tiers.toml
	@$(SANDBOX) tool -- python -m tools.promises

docs: ## build the documentation as one site in build/docs; a dead link or a warning fails
	@$(SANDBOX) tool -- python -m tools.docs

vulncheck: ## run govulncheck on the image's programs with the current database, which needs internet access
	@$(SANDBOX) tool -- python -m tools.vulnerabilities --live

bench: ## run side-by-side benchmarks on loopback; one of them: make bench ROW=warm-pull
	@$(SANDBOX) tool -- python -m bench $(if $(ROW),--only $(ROW))

bench-kind: ## run benchmarks on a kind cluster with three nodes: scaling, failing replicas and nodes, outages
	@$(SANDBOX) --name test up
	@$(SANDBOX) --name test run python -m bench.kind
