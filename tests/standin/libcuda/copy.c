/* Copies and fills. From pageable memory an asynchronous copy is staged at once, to pageable memory it is waited for: so
   the driver's documentation ("API synchronization behavior"), and neither can be captured. */
#include "standin.h"
#include <stdlib.h>
#include <string.h>

static int check(Address address, size_t bytes) { return device_at(address, bytes) ? SUCCESS : INVALID_VALUE; }

API int cuMemcpyHtoD_v2(Address to, const void *host, size_t bytes) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    TRY(check(to, bytes));
    if (pinned_at(host, bytes) < 0) return INVALID_VALUE;
    TRY(legacy_barrier(context));
    memcpy(device_at(to, bytes), host, bytes);
    counters.copies++;
    return SUCCESS;
}

API int cuMemcpyDtoH_v2(void *host, Address from, size_t bytes) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    TRY(check(from, bytes));
    if (pinned_at(host, bytes) < 0) return INVALID_VALUE;
    TRY(legacy_barrier(context));
    memcpy(host, device_at(from, bytes), bytes);
    counters.copies++;
    return SUCCESS;
}

API int cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    TRY(check(to, bytes));
    TRY(check(from, bytes));
    TRY(legacy_barrier(context));
    memmove(device_at(to, bytes), device_at(from, bytes), bytes);
    counters.copies++;
    return SUCCESS;
}

#define STREAM(handle) \
    LOCKED; \
    Context *context; \
    TRY(current(&context)); \
    Stream *stream = stream_of(context, handle); \
    if (!stream) return INVALID_HANDLE; \
    if (stream->capture && stream->capture->invalid) return CAPTURE_INVALIDATED

static int uncapturable(Stream *stream) {
    if (!stream->capture) return SUCCESS;
    stream->capture->invalid = 1;
    return CAPTURE_UNSUPPORTED;
}

API int cuMemcpyHtoDAsync_v2(Address to, const void *host, size_t bytes, void *handle) {
    STREAM(handle);
    TRY(check(to, bytes));
    int pinned = pinned_at(host, bytes);
    if (pinned < 0) return INVALID_VALUE;
    Op op = {.kind = TO_DEVICE, .to = to, .bytes = bytes, .host = (char *)(uintptr_t)host, .owned = !pinned};
    if (!pinned) {
        TRY(uncapturable(stream));
        op.host = malloc(bytes ? bytes : 1);
        memcpy(op.host, host, bytes);
    }
    return enqueue(stream, op);
}

API int cuMemcpyDtoHAsync_v2(void *host, Address from, size_t bytes, void *handle) {
    STREAM(handle);
    TRY(check(from, bytes));
    int pinned = pinned_at(host, bytes);
    if (pinned < 0) return INVALID_VALUE;
    if (!pinned) TRY(uncapturable(stream));
    TRY(enqueue(stream, (Op){.kind = TO_HOST, .from = from, .bytes = bytes, .host = host}));
    return pinned ? SUCCESS : drain(stream, UINT64_MAX);
}

API int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *handle) {
    STREAM(handle);
    TRY(check(to, bytes));
    TRY(check(from, bytes));
    return enqueue(stream, (Op){.kind = ON_DEVICE, .to = to, .from = from, .bytes = bytes});
}

static int fill(Address to, unsigned value, int width, size_t count, void *handle, int wait) {
    STREAM(handle);
    TRY(check(to, count * (size_t)width));
    TRY(enqueue(stream, (Op){.kind = FILL, .to = to, .value = value, .width = width, .bytes = count * (size_t)width}));
    return wait ? legacy_barrier(context) : SUCCESS;
}
API int cuMemsetD8_v2(Address to, unsigned char value, size_t count) { return fill(to, value, 1, count, NULL, 1); }
API int cuMemsetD16_v2(Address to, unsigned short value, size_t count) { return fill(to, value, 2, count, NULL, 1); }
API int cuMemsetD32_v2(Address to, unsigned value, size_t count) { return fill(to, value, 4, count, NULL, 1); }
API int cuMemsetD8Async(Address to, unsigned char value, size_t count, void *handle) { return fill(to, value, 1, count, handle, 0); }
API int cuMemsetD16Async(Address to, unsigned short value, size_t count, void *handle) { return fill(to, value, 2, count, handle, 0); }
API int cuMemsetD32Async(Address to, unsigned value, size_t count, void *handle) { return fill(to, value, 4, count, handle, 0); }

/* The names that the header maps to _v2, as they are without it. */
API int cuMemcpyHtoD(Address to, const void *host, size_t bytes) { return cuMemcpyHtoD_v2(to, host, bytes); }
API int cuMemcpyDtoH(void *host, Address from, size_t bytes) { return cuMemcpyDtoH_v2(host, from, bytes); }
API int cuMemcpyDtoD(Address to, Address from, size_t bytes) { return cuMemcpyDtoD_v2(to, from, bytes); }
API int cuMemcpyHtoDAsync(Address to, const void *host, size_t bytes, void *stream) { return cuMemcpyHtoDAsync_v2(to, host, bytes, stream); }
API int cuMemcpyDtoHAsync(void *host, Address from, size_t bytes, void *stream) { return cuMemcpyDtoHAsync_v2(host, from, bytes, stream); }
API int cuMemcpyDtoDAsync(Address to, Address from, size_t bytes, void *stream) { return cuMemcpyDtoDAsync_v2(to, from, bytes, stream); }
API int cuMemsetD8(Address to, unsigned char value, size_t count) { return cuMemsetD8_v2(to, value, count); }
