/* Devices, their primary contexts, and the stack of contexts that each thread has. */
#include "standin.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 8
#define DEPTH 64

static int initialized, device_count;
static Context primaries[MAX_GPUS];
static __thread Context *stack[DEPTH];
static __thread int depth;

static long number(const char *variable, long otherwise) {
    const char *text = getenv(variable);
    return text && *text ? strtol(text, NULL, 10) : otherwise;
}

API int cuInit(unsigned flags) {
    LOCKED;
    if (flags) return INVALID_VALUE;
    device_count = (int)number("STANDIN_GPUS", 1);
    if (device_count > MAX_GPUS) device_count = MAX_GPUS;
    if (device_count < 1) return NO_DEVICE;
    for (int i = 0; i < device_count; i++) primaries[i].device = i;
    initialized = 1;
    return SUCCESS;
}

API int cuDriverGetVersion(int *version) {
    if (!version) return INVALID_VALUE;
    *version = (int)number("STANDIN_DRIVER", 13000);
    return SUCCESS;
}

static int valid(int device) { return !initialized ? NOT_INITIALIZED : device < 0 || device >= device_count ? INVALID_DEVICE : SUCCESS; }

API int cuDeviceGetCount(int *count) {
    LOCKED;
    if (!initialized) return NOT_INITIALIZED;
    if (!count) return INVALID_VALUE;
    *count = device_count;
    return SUCCESS;
}

API int cuDeviceGet(int *device, int ordinal) {
    LOCKED;
    TRY(valid(ordinal));
    *device = ordinal;
    return SUCCESS;
}

API int cuDeviceGetName(char *name, int length, int device) {
    LOCKED;
    TRY(valid(device));
    const char *given = getenv("STANDIN_NAME");
    snprintf(name, (size_t)length, "%s", given ? given : "Stand-in GPU");
    return SUCCESS;
}

API int cuDeviceComputeCapability(int *major, int *minor, int device) {
    LOCKED;
    TRY(valid(device));
    const char *given = getenv("STANDIN_CAPABILITY");
    return sscanf(given ? given : "9.0", "%d.%d", major, minor) == 2 ? SUCCESS : INVALID_VALUE;
}

API int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int major, minor;
    TRY(cuDeviceComputeCapability(&major, &minor, device));
    switch (attribute) {
    case 1: *value = 1024; break;       /* threads in a block */
    case 10: *value = 32; break;        /* warp size */
    case 13: *value = 1980000; break;   /* kHz */
    case 16: *value = 132; break;       /* multiprocessors */
    case 19: case 31: case 41: *value = 1; break; /* mapped host memory, concurrent kernels, unified addressing */
    case 34: *value = device + 1; break; /* PCI device */
    case 40: *value = 2; break;         /* copy engines */
    case 75: *value = major; break;
    case 76: *value = minor; break;
    default:
        if (attribute < 1 || attribute > 200) return INVALID_VALUE;
        *value = 0;
    }
    return SUCCESS;
}

API int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    LOCKED;
    TRY(valid(device));
    *bytes = (size_t)number("STANDIN_MEMORY", 16L << 30);
    return SUCCESS;
}
API int cuDeviceTotalMem(unsigned *bytes, int device) {
    size_t wide;
    TRY(cuDeviceTotalMem_v2(&wide, device));
    *bytes = (unsigned)wide;
    return SUCCESS;
}

API int cuDeviceGetPCIBusId(char *text, int length, int device) {
    LOCKED;
    TRY(valid(device));
    snprintf(text, (size_t)length, "0000:%02X:00.0", device + 1);
    return SUCCESS;
}

API int cuDeviceGetByPCIBusId(int *device, const char *text) {
    LOCKED;
    unsigned domain, bus;
    if (!initialized) return NOT_INITIALIZED;
    if (sscanf(text, "%x:%x:", &domain, &bus) != 2) return INVALID_VALUE;
    TRY(valid((int)bus - 1));
    *device = (int)bus - 1;
    return SUCCESS;
}

API int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    LOCKED;
    TRY(valid(device));
    memset(uuid, 0x5a, 16);
    uuid[15] = (unsigned char)device;
    return SUCCESS;
}
API int cuDeviceGetUuid(unsigned char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

API int cuDeviceCanAccessPeer(int *can, int device, int peer) {
    LOCKED;
    TRY(valid(device));
    TRY(valid(peer));
    *can = 0;
    return SUCCESS;
}

/* The context of this thread's stack's top, if it can be worked with. */
int current(Context **context) {
    if (!initialized) return NOT_INITIALIZED;
    if (!depth) return INVALID_CONTEXT;
    *context = stack[depth - 1];
    if (!(*context)->retained) return CONTEXT_IS_DESTROYED;
    return (*context)->sticky;
}

API int cuDevicePrimaryCtxRetain(Context **context, int device) {
    LOCKED;
    TRY(valid(device));
    Context *primary = &primaries[device];
    if (!primary->retained++) {
        primary->sticky = SUCCESS;
        primary->null_stream = new_stream(primary, 0, 1);
        counters.contexts++;
    }
    *context = primary;
    return SUCCESS;
}

static void end(Context *context) {
    forget_execs_of(context);
    forget_events_of(context);
    forget_streams_of(context);
    free_memory_of(context);
    context->retained = 0;
    counters.contexts--;
}

API int cuDevicePrimaryCtxRelease_v2(int device) {
    LOCKED;
    TRY(valid(device));
    if (!primaries[device].retained) return INVALID_CONTEXT;
    if (primaries[device].retained == 1) end(&primaries[device]);
    else primaries[device].retained--;
    return SUCCESS;
}
API int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }

API int cuDevicePrimaryCtxReset_v2(int device) {
    LOCKED;
    TRY(valid(device));
    if (primaries[device].retained) end(&primaries[device]);
    return SUCCESS;
}

API int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    LOCKED;
    TRY(valid(device));
    primaries[device].flags = flags;
    return SUCCESS;
}
API int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) { return cuDevicePrimaryCtxSetFlags_v2(device, flags); }

API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    LOCKED;
    TRY(valid(device));
    *flags = primaries[device].flags;
    *active = primaries[device].retained > 0;
    return SUCCESS;
}

static int known(Context *context) { return context >= primaries && context < primaries + MAX_GPUS; }

API int cuCtxPushCurrent_v2(Context *context) {
    LOCKED;
    if (!initialized) return NOT_INITIALIZED;
    if (!known(context)) return INVALID_CONTEXT;
    if (!context->retained) return CONTEXT_IS_DESTROYED;
    if (depth == DEPTH) return OUT_OF_MEMORY;
    stack[depth++] = context;
    return SUCCESS;
}
API int cuCtxPushCurrent(Context *context) { return cuCtxPushCurrent_v2(context); }

API int cuCtxPopCurrent_v2(Context **context) {
    LOCKED;
    if (!initialized) return NOT_INITIALIZED;
    if (!depth) return INVALID_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return SUCCESS;
}
API int cuCtxPopCurrent(Context **context) { return cuCtxPopCurrent_v2(context); }

API int cuCtxGetCurrent(Context **context) {
    LOCKED;
    if (!initialized) return NOT_INITIALIZED;
    *context = depth ? stack[depth - 1] : NULL;
    return SUCCESS;
}

API int cuCtxSetCurrent(Context *context) {
    LOCKED;
    if (!initialized) return NOT_INITIALIZED;
    if (!context) {
        if (depth) depth--;
        return SUCCESS;
    }
    if (!known(context)) return INVALID_CONTEXT;
    if (!context->retained) return CONTEXT_IS_DESTROYED;
    if (!depth) depth = 1;
    stack[depth - 1] = context;
    return SUCCESS;
}

API int cuCtxGetDevice(int *device) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    *device = context->device;
    return SUCCESS;
}

API int cuCtxGetApiVersion(Context *context, unsigned *version) {
    LOCKED;
    if (context && !known(context)) return INVALID_CONTEXT;
    *version = 3020;
    return SUCCESS;
}

API int cuCtxSynchronize(void) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    TRY(capturing(context));
    drain_context(context, 1);
    return context->sticky;
}

/* Deprecated, and for contexts of cuCtxCreate only; PyCUDA's destructor of a primary context calls it all the same. */
API int cuCtxDetach(Context *context) { return (void)context, INVALID_CONTEXT; }
API int cuCtxAttach(Context **context, unsigned flags) { return (void)context, (void)flags, NOT_SUPPORTED; }
