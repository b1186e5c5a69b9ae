/* A stand-in of libnvidia-ml.so.1: the calls that Marey makes through pynvml, answered as a driver answers them.
 *
 *   cc -shared -fPIC -o libnvidia-ml.so.1 libnvml.c            a driver of today
 *   cc -shared -fPIC -DOLD -o libnvidia-ml.so.1 libnvml.c      one from before the calls were renamed
 *
 * What it does is set by environment variables, read at each call:
 *   STANDIN_GPUS              how many GPUs (default 1), as for libcuda
 *   STANDIN_DRIVER            the CUDA version of the driver (default 13000), as for libcuda
 *   STANDIN_NVML_BUSES        the PCI bus of each GPU, in hexadecimal, comma between (default 1, 2 …, as libcuda's)
 *   STANDIN_NVML_INIT         the code that nvmlInit returns (9: driver not loaded)
 *   STANDIN_NVML_UNSUPPORTED  calls, comma between, that answer "not supported", as under MIG
 *   STANDIN_NVML_LOST         a file; while it exists, the GPU whose index it holds is lost (index and a call: only from
 *                             that call's point of view, as when it is lost in the middle of a reading)
 *   STANDIN_NVML_DELAY_MS     how long each call about a GPU takes
 *   STANDIN_NVML_LOG          a file to which each init and shutdown is written
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
struct memory { unsigned long long total, free, used; };
struct utilization { unsigned gpu, memory; };
struct temperature { unsigned version, sensor; int celsius; };

static unsigned count(void) { const char *text = getenv("STANDIN_GPUS"); return text ? (unsigned)atoi(text) : 1; }

static void note(const char *event) {
    const char *path = getenv("STANDIN_NVML_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) { fprintf(file, "%s\n", event); fclose(file); }
}

/* Handles are index + 1, so that a null handle is refused. */
static unsigned index_of(void *device) { return (unsigned)((size_t)device - 1); }

static int enter(const char *name, void *device) {
    const char *delay = getenv("STANDIN_NVML_DELAY_MS"), *lost = getenv("STANDIN_NVML_LOST"), *unsupported = getenv("STANDIN_NVML_UNSUPPORTED");
    unsigned which;
    char call[64] = "";
    if (delay) usleep((unsigned)atoi(delay) * 1000);
    if (!device || index_of(device) >= count()) return INVALID_ARGUMENT;
    FILE *file = lost ? fopen(lost, "r") : NULL;
    if (file) {
        int read = fscanf(file, "%u %63s", &which, call);
        fclose(file);
        if (read >= 1 && which == index_of(device) && (read == 1 || !strcmp(call, name))) return GPU_IS_LOST;
    }
    if (unsupported && strstr(unsupported, name)) return NOT_SUPPORTED;
    return SUCCESS;
}
#define ENTER(device) do { int code = enter(__func__, device); if (code) return code; } while (0)

static int put(char *text, unsigned size, const char *value) {
    if (strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(text, value);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    const char *code = getenv("STANDIN_NVML_INIT");
    (void)flags;
    note("init");
    return code ? atoi(code) : SUCCESS;
}
int nvmlShutdown(void) { note("shutdown"); return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return put(text, size, "590.12.01"); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    const char *given = getenv("STANDIN_DRIVER");
    *version = given ? atoi(given) : 13000;
    return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned *found) { *found = count(); return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)((size_t)index + 1);
    ENTER(*device);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    char value[64];
    ENTER(device);
    snprintf(value, sizeof value, "GPU-00000000-0000-0000-0000-%012u", index_of(device));
    return put(text, size, value);
}
int nvmlDeviceGetPciInfo_v3(void *device, struct pci *pci) {
    ENTER(device);
    memset(pci, 0, sizeof *pci);
    const char *buses = getenv("STANDIN_NVML_BUSES");
    for (unsigned i = index_of(device); buses && i; i--) buses = strchr(buses, ',') ? strchr(buses, ',') + 1 : NULL;
    pci->bus = buses ? (unsigned)strtoul(buses, NULL, 16) : index_of(device) + 1;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}
int nvmlDeviceGetName(void *device, char *text, unsigned size) { ENTER(device); return put(text, size, "NVIDIA Stand-in"); }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    const char *given = getenv("STANDIN_CAPABILITY");
    ENTER(device);
    return sscanf(given ? given : "9.0", "%d.%d", major, minor) == 2 ? SUCCESS : INVALID_ARGUMENT;
}
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    ENTER(device);
    memory->total = 80ULL << 30;
    memory->used = (unsigned long long)(index_of(device) + 1) << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
    ENTER(device);
    rates->gpu = 87;
    rates->memory = 41;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { ENTER(device); *milliwatts = 312500; return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) { ENTER(device); *milliwatts = 700000; return SUCCESS; }
int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) {
    ENTER(device);
    if (type != 1) return INVALID_ARGUMENT; /* the SM clock */
    *mhz = 1755;
    return SUCCESS;
}
/* The GPU is idle (1), held by its power cap (4), and too hot (64). */
#ifdef OLD
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    ENTER(device);
    if (sensor != 0) return INVALID_ARGUMENT;
    *celsius = 61;
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) { ENTER(device); *bits = 69; return SUCCESS; }
#else
int nvmlDeviceGetTemperatureV(void *device, struct temperature *reading) {
    ENTER(device);
    if (reading->version != (sizeof *reading | 1u << 24) || reading->sensor != 0) return INVALID_ARGUMENT;
    reading->celsius = 61;
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *bits) { ENTER(device); *bits = 69; return SUCCESS; }
#endif
