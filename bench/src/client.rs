//! One connection of the load generator. It is on the machine that is measured, so what it costs
//! comes off what it measures: a connection pool, redirects and the like are left out.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use postroad_tests::harness::api::Api;
use tokio::net::TcpStream;

/// A client that has one request under way.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
}

impl Client {
    pub(crate) async fn connect(api: &Api) -> anyhow::Result<Self> {
        let url = api.url("");
        let host = url.strip_prefix("http://").context("not http")?.to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host,
            authorization: format!("Bearer {}", api.token()),
        })
    }

    /// Posts JSON, and takes no answer but 201.
    pub(crate) async fn post(&mut self, path: &str, body: Bytes) -> anyhow::Result<()> {
        let request = Request::post(path)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        self.send(request, StatusCode::CREATED).await
    }

    /// Gets a path, and takes no answer but 200.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<()> {
        let request = Request::get(path)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .body(Full::default())?;
        self.send(request, StatusCode::OK).await
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        expected: StatusCode,
    ) -> anyhow::Result<()> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == expected, "{status}: {body:?}");
        Ok(())
    }
}
