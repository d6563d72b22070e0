{{- define "governor.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "governor.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "governor.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "governor.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "governor.secret" -}}
{{- if .Values.existingSecret }}{{ .Values.existingSecret }}{{ else }}{{ include "governor.name" . }}{{ end -}}
{{- end }}

{{- define "governor.secretKeys" -}}
{{- if .Values.existingSecret }}{{ join "," .Values.secretKeys }}{{ else }}{{ join "," (keys .Values.secrets | sortAlpha) }}{{ end -}}
{{- end }}

{{/* Of a pod: who it is, and what it may not. */}}
{{- define "governor.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Of a container: its image, its settings and its secrets, which are files. */}}
{{- define "governor.container" -}}
image: {{ include "governor.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - {name: DEBUG, value: "false"}
  # A folder of its own within the volume, which the cluster leaves open to others.
  - {name: VAR_DIR, value: /var/lib/spend-governor/var}
  # Prometheus asks for a pod by its address.
  - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  - {name: ALLOWED_HOSTS, value: "{{ join "," .Values.allowedHosts }},$(POD_IP)"}
  - {name: APP_URL, value: {{ .Values.appUrl | quote }}}
  - {name: FORWARDED_ALLOW_IPS, value: {{ .Values.forwardedAllowIps | quote }}}
  - {name: DATABASE_URL, value: {{ required "database.url is needed: postgres://user@host:5432/name" .Values.database.url | quote }}}
  - {name: REDIS_URL, value: {{ required "redis.url is needed: redis://host:6379/0" .Values.redis.url | quote }}}
  {{- range $name := splitList "," (include "governor.secretKeys" .) }}
  - {name: {{ $name }}_FILE, value: /run/secrets/governor/{{ $name }}}
  {{- end }}
  {{- range $name, $value := .Values.settings }}
  - {name: {{ $name }}, value: {{ $value | toString | quote }}}
  {{- end }}
volumeMounts:
  - {name: secrets, mountPath: /run/secrets/governor, readOnly: true}
  - {name: var, mountPath: /var/lib/spend-governor}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "governor.volumes" -}}
- name: secrets
  secret:
    secretName: {{ include "governor.secret" . }}
    defaultMode: 0440
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end }}
