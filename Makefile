# `make` lists the targets. ARGS is passed on: make demo ARGS="--recipients 50000 --kill"
.DEFAULT_GOAL := help
SHELL := /bin/bash
ARGS ?=
PACKAGES := postroad postroad-api postroad-bench postroad-chaos postroad-common postroad-migrations postroad-provision postroad-scheduler postroad-tests postroad-worker

.PHONY: help demo test bench bench-peers replay fuzz chaos soak chaos-publish chaos-programs up lint fmt deny ci ci-release compose-test openapi-check deploy-check matrix clean

help: ## list the targets
	@grep -hE '^[.a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: ## send a sample campaign through everything and count what arrives
	cargo build --quiet --release --workspace --bins
	@target/release/postroad demo $(ARGS)

# Tests mostly wait, for servers and programs: so there are more at once than processors; and not too
# many for one Postgres.
TEST_THREADS := $(shell n=$$((2 * $$(nproc))); echo $$((n < 8 ? n : 8)))

test: ## every test, against private servers
	cargo build --quiet --workspace --bins --examples
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$(TEST_THREADS)} \
		target/debug/postroad dev --dir .postroad/test --fresh --servers-only -- cargo test --workspace $(ARGS)

bench: ## how fast it is on this machine; ARGS=--quick for a look
	cargo build --quiet --release --workspace --bins
	@target/release/postroad-bench $(ARGS)

bench-peers: ## beside Celery, Sidekiq and others, which it installs; ARGS=--quick for a look
	cargo build --quiet --release --workspace --bins
	@target/release/postroad-bench peers $(ARGS)

replay: ## two incidents that other systems had, played again; ARGS=--quick for a look
	cargo build --quiet --release --workspace --bins
	@target/release/postroad-bench --dir .postroad/replay replay $(ARGS)

# In debug: overflows and broken assertions of the standard library and ours then panic.
fuzz: ## ten minutes of random input at everything that reads bytes from outside
	cargo build --quiet -p postroad --bins
	PROPTEST_CASES=$${PROPTEST_CASES:-20000} \
		target/debug/postroad dev --dir .postroad/test --fresh --servers-only -- \
		cargo test --no-fail-fast -p postroad-common -p postroad-scheduler -p postroad-tests -p postroad-worker \
			--lib --bins --test it $(ARGS) -- fuzz

chaos: chaos-programs ## break everything while jobs are on their way; ARGS=--list names the runs
	@target/release/postroad-chaos $(ARGS)

soak: chaos-programs ## faults in random order for an hour, then the run that looks for leaks
	@target/release/postroad-chaos --soak 60 $(ARGS)

chaos-publish: chaos-programs ## the newest table of make chaos into the documents
	@target/release/postroad-chaos --publish $(ARGS)

# Faults break the programs that users run; crash points exist in debug builds only.
chaos-programs:
	cargo build --quiet --release --workspace --bins
	cargo build --quiet -p postroad -p postroad-api -p postroad-scheduler -p postroad-worker --bins

up: ## everything running on this machine until Ctrl-C
	cargo build --quiet --release --workspace --bins
	@target/release/postroad dev $(ARGS)

lint: ## formatting, clippy, rustdoc, and the walls between packages
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	@# One by one: a whole-workspace build joins features, and a wall that is breached would not show.
	@for package in $(PACKAGES); do echo "clippy $$package alone"; \
		cargo clippy --quiet -p $$package -- -D warnings || exit 1; done
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
	@if cargo deny --version >/dev/null 2>&1; then $(MAKE) --no-print-directory deny; \
		else echo "cargo-deny is not installed: licenses and duplicate crates were not checked (make deny)"; fi

deny: ## licenses, sources and banned crates; installs cargo-deny if need be
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny --all-features check bans licenses sources

fmt: ## format the code
	cargo fmt --all

# Two tiers: a release build takes a third of the time that a change should have to wait.
ci: lint test ## what every change has to pass: on the programs that the tests have built
	target/debug/postroad demo
	target/debug/postroad demo --webhooks
	target/debug/postroad demo --campaign --recipients 200000 --drain 20000
	target/debug/postroad demo --recipients 20000 --workers 4 --kill --resolve
	target/debug/postroad-chaos --gate --debug-programs

ci-release: ci chaos ## what a release has to pass: the same, and everything on release programs
	target/release/postroad demo
	target/release/postroad demo --webhooks
	target/release/postroad demo --recipients 20000 --workers 4 --kill --resolve

compose-test: ## docker-compose.yml with stand-in images; needs root, not part of ci
	tests/compose/run.sh $(ARGS)

openapi-check: ## schemathesis against the API and its own description; not part of ci
	tests/openapi/run.sh $(ARGS)

deploy-check: ## deploy/ and docker-compose.yml, by promtool, systemd-analyze and others that are here
	@deploy/check.sh $(ARGS)

matrix: ## the tests against the servers of three Debian releases; needs root, not part of ci
	tests/matrix/run.sh $(ARGS)

# Always run: it adds what a newer sample asks for, and leaves passwords that the servers keep.
.env: FORCE ## random passwords for docker-compose.yml
	@deploy/make-env.sh

FORCE:

clean: ## remove build output, private servers and their data
	cargo clean
	rm -rf .postroad
