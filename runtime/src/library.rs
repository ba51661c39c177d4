//! Loads and runs compiled libraries.
use crate::{
    abi::{self, InfoFn, LevelFn, RunFn},
    arena::Arena,
    error::{LoadError, RunError},
    exports,
    info::{ModelInfo, TensorInfo},
    pool::Pool,
};
use std::{ffi::c_void, path::Path, ptr, sync::Arc};

/// A compiled network.
///
/// `Sync`: the code is re-entrant, every run has its own arena.
pub struct Library {
    run: RunFn,
    run_f32: RunFn,
    level: LevelFn,
    info: ModelInfo,
    prefix: String,
    pool: Option<Arc<Pool>>,
    /// Unloaded last: the functions above live in it.
    _handle: libloading::Library,
}

impl Library {
    /// Loads the only network of a library.
    ///
    /// Loading a library runs code of it: load only what you trust as you trust a program.
    ///
    /// # Errors
    /// The file cannot be read, is no shared object of this machine, was not compiled by goshawk for this version of
    /// the ABI, or holds several networks.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let file = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let prefixes = exports::prefixes(&file)
            .map_err(|reason| LoadError::NotALibrary { path: path.to_owned(), reason })?;
        match &prefixes[..] {
            [] => Err(LoadError::NoModel(path.to_owned())),
            [prefix] => Self::open_named(path, prefix),
            _ => Err(LoadError::SeveralModels { path: path.to_owned(), prefixes }),
        }
    }

    /// Loads the network whose functions start with `prefix`.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub fn open_named(path: &Path, prefix: &str) -> Result<Self, LoadError> {
        let fail = |source| LoadError::Loader { path: path.to_owned(), source };
        // A bare name would be looked up in the system's library path.
        let absolute =
            std::path::absolute(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        // SAFETY: the user asks to load this library; ones that goshawk compiled have no initialisers.
        let handle = unsafe { libloading::Library::new(&absolute) }.map_err(fail)?;
        // SAFETY: these are the types that every library compiled by goshawk gives these symbols; the pointers do not
        // outlive `handle`, which the result owns.
        let (run, run_f32, level, info) = unsafe {
            (
                *handle.get::<RunFn>(format!("{prefix}_run").as_bytes()).map_err(fail)?,
                *handle.get::<RunFn>(format!("{prefix}_run_f32").as_bytes()).map_err(fail)?,
                *handle.get::<LevelFn>(format!("{prefix}_level").as_bytes()).map_err(fail)?,
                *handle.get::<InfoFn>(format!("{prefix}_info").as_bytes()).map_err(fail)?,
            )
        };
        // SAFETY: `info` takes nothing and returns the address of the library's info block.
        let info = unsafe { ModelInfo::read(info()) }?;
        Ok(Self { run, run_f32, level, info, prefix: prefix.to_owned(), pool: None, _handle: handle })
    }

    /// Facts about the network.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Index in [`ModelInfo::levels`] of the level that this CPU runs; `None` if it runs none of them.
    pub fn level(&self) -> Option<usize> {
        // SAFETY: the function takes nothing and only asks the CPU.
        usize::try_from(unsafe { (self.level)() }).ok()
    }

    /// C prefix of its functions.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Sessions run on the threads of this pool from now on, on one thread without.
    pub fn set_pool(&mut self, pool: Option<Arc<Pool>>) {
        self.pool = pool;
    }

    /// A session: an arena to run in.
    pub fn session(&self) -> Session<'_> {
        Session { arena: Arena::new(self.info.arena_bytes), library: self, pool: self.pool.clone() }
    }

    /// Runs once on integer tensors: bytes of the inputs in, bytes of the outputs out.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run(&self, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, RunError> {
        let mut outputs: Vec<Vec<u8>> = self.info.outputs.iter().map(|t| vec![0; t.bytes()]).collect();
        let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.session().run(inputs, &mut slices)?;
        Ok(outputs)
    }

    /// Runs once on f32 tensors in the layout of the ONNX model.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_f32(&self, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, RunError> {
        let mut outputs: Vec<Vec<f32>> = self.info.outputs.iter().map(|t| vec![0.0; t.elements()]).collect();
        let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.session().run_f32(inputs, &mut slices)?;
        Ok(outputs)
    }
}

/// A library with an arena, for many runs without allocation of the network's memory. One per thread.
pub struct Session<'l> {
    library: &'l Library,
    arena: Arena,
    pool: Option<Arc<Pool>>,
}

impl Session<'_> {
    /// Runs on `threads` threads from now on, a pool of its own; 1 needs none. The results do not depend on it.
    ///
    /// # Errors
    /// [`RunError::Threads`]: none or too many, or the system cannot start them.
    pub fn threads(self, threads: usize) -> Result<Self, RunError> {
        if threads == 1 {
            return Ok(Self { pool: None, ..self });
        }
        let pool = Pool::new(threads).map_err(|e| RunError::Threads(e.to_string()))?;
        Ok(self.pool(Arc::new(pool)))
    }

    /// Runs on the threads of a pool from now on. Sessions may share one; a run that finds it busy uses one thread.
    pub fn pool(self, pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// Runs on integer tensors: little-endian elements, NHWC for images.
    ///
    /// # Errors
    /// Another number of tensors, buffers of another size or not aligned to their element type, or a CPU that lacks an
    /// instruction set.
    pub fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), RunError> {
        let info = &self.library.info;
        let sizes = |tensors: &[TensorInfo]| tensors.iter().map(TensorInfo::bytes).collect::<Vec<_>>();
        check("inputs", "bytes", &info.inputs, inputs, &sizes(&info.inputs))?;
        check("outputs", "bytes", &info.outputs, outputs, &sizes(&info.outputs))?;
        for (tensor, address) in (info.inputs.iter().zip(inputs.iter().map(|b| b.as_ptr().addr())))
            .chain(info.outputs.iter().zip(outputs.iter().map(|b| b.as_ptr().addr())))
        {
            let align = tensor.dtype.bytes();
            if address % align != 0 {
                return Err(RunError::Alignment { tensor: tensor.name.clone(), align });
            }
        }
        let inputs: Vec<*const c_void> = inputs.iter().map(|b| b.as_ptr().cast()).collect();
        let outputs: Vec<*mut c_void> = outputs.iter_mut().map(|b| b.as_mut_ptr().cast()).collect();
        self.call(self.library.run, &inputs, &outputs)
    }

    /// Runs on f32 tensors in the layout of the ONNX model (NCHW for images).
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_f32(&mut self, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) -> Result<(), RunError> {
        let info = &self.library.info;
        let sizes = |tensors: &[TensorInfo]| tensors.iter().map(TensorInfo::elements).collect::<Vec<_>>();
        check("inputs", "values", &info.inputs, inputs, &sizes(&info.inputs))?;
        check("outputs", "values", &info.outputs, outputs, &sizes(&info.outputs))?;
        let inputs: Vec<*const c_void> = inputs.iter().map(|b| b.as_ptr().cast()).collect();
        let outputs: Vec<*mut c_void> = outputs.iter_mut().map(|b| b.as_mut_ptr().cast()).collect();
        self.call(self.library.run_f32, &inputs, &outputs)
    }

    fn call(
        &mut self,
        run: RunFn,
        inputs: &[*const c_void],
        outputs: &[*mut c_void],
    ) -> Result<(), RunError> {
        let executor = self.pool.as_ref().map_or(ptr::null(), |pool| ptr::from_ref(pool.executor()));
        // SAFETY: the structs of the C ABI are pointers only, in order; counts, sizes and alignment were checked
        // against the library's own description; the arena has the size and alignment that it asks for and is
        // borrowed exclusively; the pool outlives the call.
        let code = unsafe { run(inputs.as_ptr(), outputs.as_ptr(), self.arena.as_mut_ptr(), executor) };
        match code {
            abi::OK => Ok(()),
            abi::E_ISA => Err(RunError::Isa(self.library.info.levels.join(", or "))),
            code => Err(RunError::Code(code)),
        }
    }
}

/// Checks the number of buffers and their sizes.
fn check<T, B: AsRef<[T]>>(
    what: &'static str,
    unit: &'static str,
    tensors: &[TensorInfo],
    buffers: &[B],
    sizes: &[usize],
) -> Result<(), RunError> {
    if tensors.len() != buffers.len() {
        return Err(RunError::Count { what, expected: tensors.len(), found: buffers.len() });
    }
    for ((tensor, buffer), &expected) in tensors.iter().zip(buffers).zip(sizes) {
        let found = buffer.as_ref().len();
        if found != expected {
            return Err(RunError::Size { tensor: tensor.name.clone(), unit, expected, found });
        }
    }
    Ok(())
}
