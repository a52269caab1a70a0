//! The command `idemkv`, run as a process on real files.

mod changing;
mod checking;
mod exporting;
mod flips;
mod helpers;
mod looking;
mod restoring;
mod small;
