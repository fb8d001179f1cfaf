SANDBOX := python3 -m sandbox
S ?= site

.PHONY: help demo demo-env demo-down test lint unit sanity matrix image molecule pin vulncheck bench bench-kind

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## a kind cluster, the stand-in for Google, the cache, and its main promises proved
	@$(SANDBOX) up
	@$(SANDBOX) run python -m sandbox.demo

demo-env: ## shell exports to look around in the demo: eval "$(make demo-env)"
	@$(SANDBOX) env

demo-down: ## remove all that the demo started; builds stay in the cache
	@$(SANDBOX) down

test: ## everything, with the seconds of each stage
	@python3 -m tests.run

lint: ## ansible-lint (profile production), yamllint, ruff, mypy, shellcheck
	@python3 -m tests.run lint

unit: ## pytest
	@python3 -m tests.run unit

sanity: ## ansible-test sanity on the built collection
	@python3 -m tests.run sanity

matrix: ## tests of plugins and sanity with every ansible-core from 2.16 on; some of them: make matrix CORE="2.16 2.21"
	@$(SANDBOX) tool -- python -m tests.matrix $(CORE)

image: ## role image with docker and podman, on registries of loopback
	@python3 -m tests.run image

molecule: ## one scenario on kind, which stays up: make molecule S=site, then S=default removes it
	@python3 -m tests.run molecule-$(S)

pin: ## a pin of the image's programs: make pin PIN=github.com/distribution/distribution/v3@v3.1.2, or PIN=go@1.26.10
	@sh tests/pin.sh "$(PIN)"

vulncheck: ## govulncheck on the image's programs with today's database, which needs the internet
	@$(SANDBOX) tool -- python -m tests.vulnerabilities --live

bench: ## side-by-side measurements on loopback; one of them: make bench ROW=warm-pull
	@$(SANDBOX) tool -- python -m bench $(if $(ROW),--only $(ROW))

bench-kind: ## what only a cluster has: three nodes, replicas that come, leave, die and vanish under load, outages
	@python3 -m sandbox --name test up
	@python3 -m sandbox --name test run python -m bench.kind
