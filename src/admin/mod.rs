//! A page for operators: what is in flight and interrupted, the answers of the last hour, and the
//! means to resolve and forget keys. A router to be mounted in a service.
//!
//! **The page has no login.** Mount it behind your own authentication, and say in [`Admin::new`]
//! what each request may do.
//!
//! ```
//! use axum::Router;
//! use idemkv::Engine;
//! use idemkv::admin::{Access, Admin};
//!
//! # #[derive(Clone)] struct Operator { name: String }
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("charges.idem");
//! let engine = Engine::open(path)?;
//! let admin = Admin::new(&engine, |request| match request.extensions.get::<Operator>() {
//!     Some(operator) => Access::change(&operator.name), // put there by your own authentication
//!     None => Access::Refused,
//! });
//! let service: Router = Router::new().nest("/ops/idempotency", admin.title("charges, production").router());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `docs/admin.md` has all of it.

mod access;
mod builder;
mod change;
mod forgery;
mod gate;
mod journal;
mod look;
mod names;
mod page;
mod problem;
mod samples;
mod shared;
mod view;

pub use access::Access;
pub use builder::Admin;
