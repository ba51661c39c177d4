/* Calls a compiled network from Python, one instance for each library. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define GOSHAWK_POOL
#include "net.h"

static int (*run_f32)(const net_inputs_f32 *, const net_outputs_f32 *, void *, const goshawk_executor *);
static const net_inputs_f32 *inputs;
static const net_outputs_f32 *outputs;
static void *arena;
static const goshawk_executor *executor;

/* prepare(function, inputs, outputs, arena, threads): addresses, and how many threads run it. */
static PyObject *prepare(PyObject *self, PyObject *args) {
    unsigned long long function, in, out, area;
    Py_ssize_t threads;
    if (!PyArg_ParseTuple(args, "KKKKn", &function, &in, &out, &area, &threads)) return NULL;
    run_f32 = (void *)(uintptr_t)function;
    inputs = (void *)(uintptr_t)in;
    outputs = (void *)(uintptr_t)out;
    arena = (void *)(uintptr_t)area;
    if (threads > 1) {
        goshawk_pool *pool = goshawk_pool_create((size_t)threads);
        if (!pool) return PyErr_SetString(PyExc_RuntimeError, "no threads"), NULL;
        executor = goshawk_pool_executor(pool);
    }
    Py_RETURN_NONE;
}

/* run(): the error code. */
static PyObject *run(PyObject *self, PyObject *none) {
    return PyLong_FromLong(run_f32(inputs, outputs, arena, executor));
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_VARARGS, NULL},
    {"run", run, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "caller", NULL, -1, methods};
PyMODINIT_FUNC PyInit_caller(void) { return PyModule_Create(&module); }
