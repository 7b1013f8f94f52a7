#![no_std]

pub mod gcra;
