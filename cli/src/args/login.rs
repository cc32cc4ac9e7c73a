//! `attache login`, in its four forms.

use std::path::PathBuf;

use attache_mtls::spiffe::BrokerId;
use clap::{ArgGroup, Args};

use super::parse::{self, CodeSource};

/// `attache login`: without a form it renews the certificate now.
#[derive(Debug, Clone, Args)]
#[command(
    group = ArgGroup::new("how").args(["csr", "code"]),
    after_help = "The first time: attache login --new NAME --broker ADDR --broker-id ID --trust-bundle FILE --csr \
                        OUT; on the broker's machine: attache-broker bootstrap operator NAME --csr OUT > CHAIN.pem; then: \
                        attache login --finish CHAIN.pem. The key never leaves this machine.\nBy the code of another operator \
                        (attache operator add NAME): attache login --new NAME --broker ADDR --code @FILE.\nThe certificate renews itself for \
                        seven days. Then sign in again: attache login --new NAME --csr OUT (the context knows the broker), on the \
                        broker's machine, with the broker stopped: attache-broker bootstrap operator NAME --csr OUT --recover > \
                        CHAIN.pem, and finish as above."
)]
pub struct Login {
    /// Make a key and a certificate request for this operator, and a context that waits for the certificate
    #[arg(long, value_name = "NAME", value_parser = parse::word(parse::operator_name), conflicts_with = "finish",
          requires = "how")]
    pub new: Option<String>,
    /// Where the broker listens: HOST:PORT; as before, when the context is signed in again
    #[arg(long, value_name = "ADDR", value_parser = parse::word(parse::address), requires = "new")]
    pub broker: Option<String>,
    /// Which broker it must be: spiffe://TRUST-DOMAIN/broker/NAME
    #[arg(long, value_name = "SPIFFE", value_parser = parse::word(parse::broker_id), requires = "new")]
    pub broker_id: Option<BrokerId>,
    /// The CA certificates by which it is known (PEM); copied beside the settings
    #[arg(long, value_name = "FILE", value_parser = parse::path(), requires = "new")]
    pub trust_bundle: Option<PathBuf>,
    /// Where to write the certificate request (PEM)
    #[arg(long, value_name = "OUT", value_parser = parse::path(), requires = "new")]
    pub csr: Option<PathBuf>,
    /// Sign in by another operator's code, which is in a file (@FILE) or comes on standard input (-)
    #[arg(long, value_name = "SOURCE", value_parser = parse::word(parse::code_source), requires = "new",
          conflicts_with = "trust_bundle")]
    pub code: Option<CodeSource>,
    /// Where the broker listens for those who have no certificate: HOST:PORT; port 7444 of the other address, unless it is
    /// given
    #[arg(long, value_name = "ADDR", value_parser = parse::word(parse::address), requires = "new")]
    pub enroll: Option<String>,
    /// Take the certificate that was signed for the waiting context
    #[arg(long, value_name = "CHAIN", value_parser = parse::path())]
    pub finish: Option<PathBuf>,
}
