//! The `svix` crate as a client of the payments service: URL, key and amount. It prints the charge,
//! or the status that refused it.

use std::env;
use std::process::ExitCode;

use serde_json::json;
use svix::api::{MessageCreateOptions, Svix, SvixOptions};
use svix::error::Error;
use svix::models::MessageIn;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, key, amount] = &args[..] else { return ExitCode::FAILURE };
    let client = Svix::new(String::new(), Some(SvixOptions { server_url: Some(url.clone()), ..SvixOptions::default() }));
    let message = MessageIn::new("charge".to_owned(), json!({ "amount": amount, "currency": "eur" }));
    let options = MessageCreateOptions { idempotency_key: Some(key.clone()), ..MessageCreateOptions::default() };
    match client.message().create("shop".to_owned(), message, Some(options)).await {
        Ok(made) => println!("{}", made.payload),
        Err(Error::Http(error)) => println!("refused {}", error.status.as_u16()),
        Err(Error::Validation(error)) => println!("refused {}", error.status.as_u16()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
