//! The extension module `blt._blt`: what `blt.Scorer` and `blt.ray` are made of. How they are used,
//! the package's README says.
#![cfg(feature = "extension")]

mod arrow_data;
mod error;
mod owner;
mod run;
mod scorer;
mod worker;

use pyo3::prelude::*;

#[pymodule]
mod _blt {
    #[pymodule_export]
    use super::arrow_data::Scored;
    #[pymodule_export]
    use super::error::Error;
    #[pymodule_export]
    use super::run::run;
    #[pymodule_export]
    use super::scorer::Scorer;
    #[pymodule_export]
    use super::worker::Worker;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
