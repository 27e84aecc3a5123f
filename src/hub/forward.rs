//! Proxies that forward unencrypted requests, as the oldest kind does: the request line names the whole address.
//!
//! ureq asks every proxy for a tunnel. Many give one only to encrypted servers, and expect the others' requests themselves.

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport};
use ureq::{Agent, Error};

/// What asks the proxy at `proxy` for addresses without encryption.
pub(super) fn agent(config: Config, proxy: &Uri) -> Agent {
    Agent::with_parts(config, ().chain(TcpConnector::default()).chain(Whole), AtProxy(proxy.clone()))
}

/// Whatever the host, the proxy is connected to.
#[derive(Debug)]
struct AtProxy(Uri);

impl Resolver for AtProxy {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        DefaultResolver::default().resolve(&self.0, config, timeout)
    }
}

/// Puts the host before the path.
#[derive(Debug)]
struct Whole;

impl<In: Transport> Connector<In> for Whole {
    type Out = WholeTransport<In>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let host = details.uri.authority().map_or("", |authority| authority.as_str());
        let host = format!("http://{}", host.rsplit('@').next().unwrap_or_default());
        Ok(chained.map(|inner| WholeTransport { inner, host }))
    }
}

#[derive(Debug)]
struct WholeTransport<In> {
    inner: In,
    host: String,
}

impl<In: Transport> Transport for WholeTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        const METHOD: &[u8] = b"GET ";
        let (output, more) = (self.inner.buffers().output(), self.host.len());
        let begins = output[..amount].strip_prefix(METHOD).is_some_and(|rest| rest.starts_with(b"/"));
        if !begins {
            return self.inner.transmit_output(amount, timeout);
        }
        if amount + more > output.len() {
            return Err(Error::LargeResponseHeader(amount + more, output.len()));
        }
        output.copy_within(METHOD.len()..amount, METHOD.len() + more);
        output[METHOD.len()..METHOD.len() + more].copy_from_slice(self.host.as_bytes());
        self.inner.transmit_output(amount + more, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}
