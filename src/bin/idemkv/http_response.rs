//! A result in the form in which the HTTP layer stores responses.

use clap::Args;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use idemkv::Outcome;
use idemkv::http::body_of_record;

use crate::answer::Trouble;

#[derive(Debug, Args)]
pub(crate) struct HttpResponse {
    /// For a key of the HTTP layer: the status of the response that retries get
    #[arg(long, value_name = "CODE")]
    http_status: Option<u16>,
    /// A header of that response, such as 'content-type: application/json'; may be repeated. Headers that the layer never
    /// stores, such as set-cookie, are left out
    #[arg(long, value_name = "NAME: VALUE", requires = "http_status")]
    header: Vec<String>,
}

impl HttpResponse {
    /// The body of the record: the response, or the bytes as they are where no status was given.
    pub(crate) fn stored(&self, outcome: Outcome, body: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        let Some(code) = self.http_status else { return Ok(body) };
        let status = StatusCode::from_u16(code).ok().filter(|status| !status.is_informational());
        let Some(status) = status else {
            return Err(Trouble::refused(format_args!(
                "{code} is no status of a response: those are 200 to 999"
            )));
        };
        let is_failure = status.is_client_error() || status.is_server_error();
        if is_failure != (outcome == Outcome::Failure) {
            let right = if is_failure { "failed" } else { "completed" };
            return Err(Trouble::refused(format_args!(
                "the layer stores a response with status {code} as {right}: give --as {right}"
            )));
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        for line in &self.header {
            let (name, value) = header(line)?;
            response.headers_mut().append(name, value);
        }
        Ok(body_of_record(&response))
    }

    pub(crate) fn is_given(&self) -> bool {
        self.http_status.is_some()
    }
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), Trouble> {
    let parts = line.split_once(':').and_then(|(name, value)| {
        Some((name.trim().parse().ok()?, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?))
    });
    parts.ok_or_else(|| Trouble::refused(format_args!("{line:?} is no header: write it as 'name: value'")))
}
