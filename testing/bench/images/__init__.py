"""The part of the benchmark that is about images, against umoci, podman, buildah and skopeo."""
