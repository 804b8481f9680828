//! Where models come from: local servers play the Hub and its storage, a shell script plays pip.
#![cfg(all(unix, feature = "cli"))]

mod command;
mod demo;
mod hub;
mod repository;
mod server;
mod trouble;
