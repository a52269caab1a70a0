//! The README's program, word for word.

// shown: the program
use idemkv::{Begin, Engine, Fingerprint};

fn charge(_request: &[u8]) -> String {
    "charged 10".to_owned() // the effect: call the bank
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open("charges.idem")?;
    let charges = engine.scope("POST /v1/charges");
    let (key, request) = ("5a8e7a6b-c7d8-4e9f-a0b1-2c3d4e5f6a7b", b"amount=10");
    match charges.begin(key, Fingerprint::of(request))? {
        Begin::Fresh(claim) => {
            let record = claim.complete(charge(request))?; // durable when it returns
            println!("ran: {}", String::from_utf8_lossy(record.body()));
        }
        Begin::InFlight(_pending) => println!("409: another caller is at it"),
        Begin::Done(record) => println!("replayed: {}", String::from_utf8_lossy(record.body())),
    }
    engine.close()?; // reports what a drop can't
    Ok(())
}
// end

/// Runs it in the current directory.
pub fn run() -> Result<(), Box<dyn std::error::Error>> {
    main()
}
