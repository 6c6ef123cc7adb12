//! Policy of ZTKA: model, compiler, engine, rendering of Kubernetes RBAC.
