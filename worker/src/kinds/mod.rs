//! The built-in kinds, one file each; file name = kind.
