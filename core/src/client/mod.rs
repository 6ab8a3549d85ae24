//! The client's session logic, used by `sdk/rust`, by `tigerchat bench` and by the simulator's users.
