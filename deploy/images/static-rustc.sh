#!/usr/bin/env bash
# rustc for build.sh --quick: our two programs are linked statically, and all else is compiled as it always is.
case " $* " in
  *" --crate-name attache_broker "*" --crate-type bin "* | *" --crate-name attache_node_plugin "*" --crate-type bin "*)
    exec "$@" -C target-feature=+crt-static
    ;;
  *) exec "$@" ;;
esac
