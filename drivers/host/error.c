/* Codes and texts. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

static _Thread_local char open_text[200];
static _Thread_local char copied_text[200];

const char *dpu_strerror(int code) {
    switch (code) {
    case DPU_OK: return "no error";
    case DPU_EINVAL: return "an argument or option is out of range";
    case DPU_ENOMEM: return "not enough memory";
    case DPU_ECONNECT: return "no connection to the DPU";
    case DPU_ELINK: return "the link to the DPU is down";
    case DPU_EPROTO: return "the DPU broke the vhost-user or virtio protocol";
    case DPU_ETIMEOUT: return "the DPU did not answer in time";
    case DPU_EREFUSED: return "the DPU refused a request";
    case DPU_EFEATURE: return "the DPU lacks a required feature";
    case DPU_ECLOSED: return "the port was shut down";
    case DPU_ESYSTEM: return "a system call failed";
    default: return code > 0 ? "no error" : "unknown error";
    }
}

int dpu_fail(struct dpu_port *port, int code, const char *format, ...) {
    char *text = port ? port->text : open_text;
    va_list arguments;
    va_start(arguments, format);
    if (port)
        pthread_mutex_lock(&port->text_lock);
    vsnprintf(text, sizeof open_text, format, arguments);
    if (port)
        pthread_mutex_unlock(&port->text_lock);
    va_end(arguments);
    return code;
}

const char *dpu_error_text(struct dpu_port *port) {
    if (!port)
        return open_text;
    pthread_mutex_lock(&port->text_lock);
    memcpy(copied_text, port->text, sizeof copied_text);
    pthread_mutex_unlock(&port->text_lock);
    return copied_text;
}
