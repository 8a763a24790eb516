# One image with the four programs; docker-compose.yml says which one a container runs. The target
# `demo` has the simulated provider as well, which has no place where real messages are sent.
# Builds with BuildKit and with the classic builder, so it uses nothing that only one of them has.

ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# Only what decides which dependencies are built: the manifests, and every target's root as an
# empty program. A change of code leaves this stage's files as they were, and so the next stage
# finds its dependencies already built.
FROM ${RUST_IMAGE} AS manifests
WORKDIR /src
COPY . .
RUN find . -type f \
        ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' \
        ! -name main.rs ! -name lib.rs ! -name build.rs \
        ! -path './*/src/bin/*' ! -path './*/tests/*' ! -path './*/benches/*' ! -path './*/examples/*' \
        -delete \
    && find . -name '*.rs' -exec sh -c 'for file; do echo "fn main() { }" > "$file"; done' sh {} + \
    && find . -type d -empty -delete

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY --from=manifests /src .
RUN cargo build --locked --release -p postroad -p postroad-api -p postroad-scheduler -p postroad-worker
COPY . .
# Files keep their own times when they are copied, and cargo must not take them for older than the
# empty programs they replace. Not in target/: dependencies have generated code there.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo build --locked --release -p postroad -p postroad-api -p postroad-scheduler -p postroad-worker \
    && install -D -t /out target/release/postroad target/release/postroad-api \
        target/release/postroad-scheduler target/release/postroad-worker

FROM build AS build-demo
RUN cargo build --locked --release -p postroad-tests --bin postroad-simulator \
    && install -D -t /demo target/release/postroad-simulator

FROM ${RUNTIME_IMAGE} AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Postroad" \
      org.opencontainers.image.description="Scheduled jobs and bulk notifications over Postgres and RabbitMQ" \
      org.opencontainers.image.source="https://github.com/postroad/postroad" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The roots that webhooks, gateways, amqps and Postgres over TLS are checked against. The slim image
# has none; copied rather than installed, so that this stage needs no network.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /usr/local/bin/
# A number, not a name, so that a cluster can see that it is not root.
USER 65532:65532
STOPSIGNAL SIGTERM
CMD ["postroad", "--help"]

FROM runtime AS demo
COPY --from=build-demo /demo/ /usr/local/bin/

FROM runtime
