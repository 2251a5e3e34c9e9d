//! tcpcopy-user
