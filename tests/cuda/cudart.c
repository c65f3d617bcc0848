/* A CUDA runtime without a GPU, for ONNX Runtime's real CUDA provider: memory is the host's, copies copy, kernels do nothing.
 *
 * So all tensors that a network computes are zeros, but everything around it is real: where nodes are put, options, bindings, recorded
 * calls, what becomes of errors. Only what the provider calls is here; what it links against and does not need is made up by
 * check_cuda.py. Numbers are those of CUDA 13's headers.
 *
 *   FAKE_CUDA_DEVICES=2        how many there are (1)
 *   FAKE_CUDA_MEMORY=8000000   bytes of each (8 GiB)
 *   FAKE_CUDA_DIES=1:500       device 1 has an illegal address at its 500th kernel, and gives nothing but that error from then on
 *   FAKE_CUDA_LOG=FILE         a line for each recording and each refusal of memory, and at the end some for each device
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, ILLEGAL_ADDRESS = 700, NOT_WHILE_CAPTURING = 900 };
enum { MOST = 8, HEADER = 256, TO_DEVICE = 1 };

typedef struct { unsigned x, y, z; } dim3;
typedef void *stream_t;

static struct {
    atomic_long kernels, recordings, replays, used, peak;
    atomic_int is_dead;
} devices[MOST];

static _Thread_local int device;
static _Thread_local stream_t capturing;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static int count(void) {
    return (int)number("FAKE_CUDA_DEVICES", 1);
}

static void say(const char *what, int of, long value) {
    const char *path = getenv("FAKE_CUDA_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%d %s %ld\n", of, what, value);
        fclose(file);
    }
}

__attribute__((destructor)) static void report(void) {
    for (int i = 0; i < count(); i++) {
        say("kernels", i, devices[i].kernels);
        say("recordings", i, devices[i].recordings);
        say("replays", i, devices[i].replays);
        say("peak", i, devices[i].peak);
    }
}

/* The error that a dead device gives for everything. */
static int state(void) {
    return devices[device].is_dead ? ILLEGAL_ADDRESS : OK;
}

static int kernel(void) {
    long kernels = ++devices[device].kernels;
    for (const char *dies = getenv("FAKE_CUDA_DIES"); dies && *dies; dies = strchr(dies, ',') ? strchr(dies, ',') + 1 : NULL) {
        const char *colon = strchr(dies, ':');
        if (colon && atoi(dies) == device && kernels >= atol(colon + 1)) devices[device].is_dead = 1;
    }
    return state();
}

/* ---- devices ---- */

int cudaGetDeviceCount(int *n) { return *n = count(), OK; }
int cudaGetDevice(int *d) { return *d = device, OK; }
int cudaSetDevice(int d) { return d < 0 || d >= count() ? INVALID_DEVICE : (device = d, OK); }
int cudaDriverGetVersion(int *version) { return *version = 13000, OK; }
int cudaRuntimeGetVersion(int *version) { return *version = 13000, OK; }
int cudaDeviceSynchronize(void) { return capturing ? NOT_WHILE_CAPTURING : state(); }
int cudaGetLastError(void) { return state(); }
int cudaPeekAtLastError(void) { return state(); }

const char *cudaGetErrorName(int error) { return error == ILLEGAL_ADDRESS ? "cudaErrorIllegalAddress" : "cudaError"; }

const char *cudaGetErrorString(int error) {
    switch (error) {
    case OUT_OF_MEMORY: return "out of memory";
    case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    case NOT_WHILE_CAPTURING: return "operation not permitted when stream is capturing";
    default: return "invalid argument";
    }
}

/* Of 1008 bytes; the places of what the provider looks at. */
int cudaGetDeviceProperties(char *to, int d) {
    memset(to, 0, 1008);
    strcpy(to, "Fake GPU");
    *(size_t *)(to + 288) = number("FAKE_CUDA_MEMORY", 8L << 30); /* totalGlobalMem */
    *(size_t *)(to + 296) = 48 << 10;                            /* sharedMemPerBlock */
    *(int *)(to + 304) = 65536;                                  /* regsPerBlock */
    *(int *)(to + 308) = 32;                                     /* warpSize */
    *(int *)(to + 320) = 1024;                                   /* maxThreadsPerBlock */
    for (int i = 0; i < 3; i++) {
        *(int *)(to + 324 + 4 * i) = i < 2 ? 1024 : 64;             /* maxThreadsDim */
        *(int *)(to + 336 + 4 * i) = i < 1 ? 2147483647 : 65535;    /* maxGridSize */
    }
    *(int *)(to + 360) = 8;                 /* major */
    *(size_t *)(to + 368) = 512;            /* textureAlignment */
    *(int *)(to + 384) = 108;               /* multiProcessorCount */
    *(int *)(to + 604) = 2048;              /* maxThreadsPerMultiProcessor */
    *(size_t *)(to + 624) = 164 << 10;      /* sharedMemPerMultiprocessor */
    *(size_t *)(to + 672) = 160 << 10;      /* sharedMemPerBlockOptin */
    return OK;
}

int cudaDeviceGetAttribute(int *value, int attribute, int d) {
    switch (attribute) {
    case 1: return *value = 1024, OK;       /* maxThreadsPerBlock */
    case 8: return *value = 48 << 10, OK;   /* maxSharedMemoryPerBlock */
    case 10: return *value = 32, OK;        /* warpSize */
    case 16: return *value = 108, OK;       /* multiProcessorCount */
    case 75: return *value = 8, OK;         /* computeCapabilityMajor */
    case 97: return *value = 160 << 10, OK; /* maxSharedMemoryPerBlockOptin */
    default: return *value = 0, OK;
    }
}

/* ---- memory ---- */

/* Device memory has its size and its device before it. */
int cudaMalloc(void **to, size_t bytes) {
    if (capturing) return NOT_WHILE_CAPTURING;
    if (state()) return state();
    if (devices[device].used + (long)bytes > number("FAKE_CUDA_MEMORY", 8L << 30)) {
        say("refused", device, (long)bytes);
        return OUT_OF_MEMORY;
    }
    long *memory = aligned_alloc(256, HEADER + (bytes + 255) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
    memory[0] = (long)bytes, memory[1] = device;
    memset((char *)memory + HEADER, 0, bytes);
    long used = devices[device].used += (long)bytes;
    if (used > devices[device].peak) devices[device].peak = used;
    return *to = (char *)memory + HEADER, OK;
}

int cudaFree(void *at) {
    if (at) {
        long *memory = (long *)((char *)at - HEADER);
        devices[memory[1]].used -= memory[0];
        free(memory);
    }
    return OK;
}

int cudaMallocFromPoolAsync(void **to, size_t bytes, void *pool, stream_t stream) { return cudaMalloc(to, bytes); }
int cudaFreeAsync(void *at, stream_t stream) { return cudaFree(at); }

int cudaMallocHost(void **to, size_t bytes) {
    return (*to = aligned_alloc(256, (bytes + 256) / 256 * 256)) ? OK : OUT_OF_MEMORY;
}

int cudaHostAlloc(void **to, size_t bytes, unsigned flags) { return cudaMallocHost(to, bytes); }
int cudaFreeHost(void *at) { return free(at), OK; }

int cudaMemGetInfo(size_t *available, size_t *total) {
    *total = number("FAKE_CUDA_MEMORY", 8L << 30);
    *available = *total - devices[device].used;
    return OK;
}

/* What comes from the host becomes zeros too: kernels write nothing, so a tensor is whatever was at its place before. */
static int copy(void *to, const void *from, size_t bytes, int kind, stream_t stream) {
    if (state()) return state();
    if (capturing && stream != capturing) return NOT_WHILE_CAPTURING;
    return kind == TO_DEVICE ? memset(to, 0, bytes) : memmove(to, from, bytes), OK;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { return copy(to, from, bytes, kind, NULL); }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, stream_t stream) { return copy(to, from, bytes, kind, stream); }

int cudaMemcpy2DAsync(char *to, size_t pitch, const char *from, size_t of, size_t width, size_t height, int kind, stream_t stream) {
    int error = OK;
    for (size_t line = 0; line < height && !error; line++) error = copy(to + line * pitch, from + line * of, width, kind, stream);
    return error;
}

int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, int kind) { return memset(to, 0, bytes), OK; }
int cudaMemset(void *at, int value, size_t bytes) { return memset(at, value, bytes), state(); }
int cudaMemsetAsync(void *at, int value, size_t bytes, stream_t stream) { return memset(at, value, bytes), state(); }

int cudaPointerGetAttributes(char *to, void *pointer) {
    memset(to, 0, 88);
    *(int *)to = 2; /* of a device */
    *(void **)(to + 8) = *(void **)(to + 16) = pointer;
    return OK;
}

/* ---- streams, events, recorded calls ---- */

static int handle(void **to) { return (*to = malloc(64)) ? OK : OUT_OF_MEMORY; }

int cudaStreamCreate(stream_t *to) { return handle(to); }
int cudaStreamCreateWithFlags(stream_t *to, unsigned flags) { return handle(to); }
int cudaStreamDestroy(stream_t stream) { return free(stream), OK; }
int cudaEventCreate(void **to) { return handle(to); }
int cudaEventCreateWithFlags(void **to, unsigned flags) { return handle(to); }
int cudaEventDestroy(void *event) { return free(event), OK; }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { return *milliseconds = 1, OK; }
int cudaStreamSynchronize(stream_t stream) { return capturing ? NOT_WHILE_CAPTURING : state(); }

int cudaStreamBeginCapture(stream_t stream, int mode) { return capturing = stream, OK; }
int cudaStreamIsCapturing(stream_t stream, int *to) { return *to = stream && stream == capturing, OK; }

int cudaStreamEndCapture(stream_t stream, void **graph) {
    capturing = NULL;
    say("recorded", device, ++devices[device].recordings);
    return handle(graph);
}

int cudaGraphInstantiate(void **to, void *graph, unsigned long long flags) { return handle(to); }
int cudaGraphLaunch(void *graph, stream_t stream) { return ++devices[device].replays, state(); }

/* ---- kernels ---- */

int cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, stream_t stream) { return kernel(); }
int __cudaLaunchKernel(void *f, dim3 grid, dim3 block, void **arguments, size_t shared, stream_t stream) { return kernel(); }
int cudaLaunchCooperativeKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, stream_t stream) { return kernel(); }
int cudaLaunchKernelExC(const void *config, const void *f, void **arguments) { return kernel(); }
int cudaLaunchHostFunc(stream_t stream, void (*f)(void *), void *argument) { return f(argument), OK; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int size, size_t shared, unsigned flags) { return *blocks = 2, OK; }

int cudaFuncGetAttributes(char *to, const void *f) {
    memset(to, 0, 144);
    *(int *)(to + 24) = 1024; /* maxThreadsPerBlock */
    *(int *)(to + 28) = 32;   /* numRegs */
    *(int *)(to + 32) = *(int *)(to + 36) = 80;
    return OK;
}

void **__cudaRegisterFatBinary(void *binary) { return malloc(64); }
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
int __cudaGetKernel(void **to, const void *entry) { return *to = (void *)entry, OK; }

static _Thread_local struct { dim3 grid, block; size_t shared; void *stream; } configuration;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    configuration.grid = grid, configuration.block = block, configuration.shared = shared, configuration.stream = stream;
    return OK;
}

int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void **stream) {
    *grid = configuration.grid, *block = configuration.block, *shared = configuration.shared, *stream = configuration.stream;
    return OK;
}
