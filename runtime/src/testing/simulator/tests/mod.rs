//! The simulator itself: it replays, it shrinks, and it finds what was planted.

mod planted;
mod replay;
